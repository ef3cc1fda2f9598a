"""`yfkernels robustness` from the outside: files, tables, refusals, interruption."""

from __future__ import annotations

import csv
import math
import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from matplotlib.figure import Figure
from matplotlib.image import imread
from typer.testing import CliRunner, Result

from yfkernels.lab import cli
from yfkernels.lab.robustness import command, report, run
from yfkernels.lab.robustness.contestants import CONTESTANTS
from yfkernels.lab.robustness.options import WORKLOADS, Options
from yfkernels.lab.robustness.trainings import Job, Outcome, Trainings

FILES = {"robust-region.png", "robustness.csv", "robustness.png"}
FEW = ("--workload", "quadratic", "--optimizer", "adam", "--steps", "2", "--seeds", "1")
TUNING, FACTORS = 50, 9  # trainings


@pytest.fixture(autouse=True)
def put_back(threads: None) -> None:
    """torch's threads, after the test."""


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take a second each."""
    monkeypatch.setattr(run, "report", lambda *_: None)


@pytest.fixture
def no_theory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figure, which depends on nothing, is blank."""
    monkeypatch.setattr(report, "plot_region", Figure)


def robustness(out: Path, *arguments: str) -> Result:
    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"})
    return runner.invoke(cli.app, ["robustness", "--out", str(out), *arguments])


def said(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "robustness.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_and_tables(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    both = ("--optimizer", "sgd", "--optimizer", "yellowfin")
    result = robustness(out, "--workload", "quadratic", *both, "--seeds", "2", "--steps", "10")
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == FILES
    for name in FILES - {"robustness.csv"}:
        height, width, _ = imread(out / name).shape
        assert width >= 1200
        assert height >= 600
    written = rows(out)
    assert {row["optimizer"] for row in written} == {"sgd", "yellowfin"}
    assert {row["steps"] for row in written} == {"10"}
    assert {row["seed"] for row in written} == {"0", "1", "1000", "1001", "1002"}
    printed = said(result)
    finals: dict[str, list[float]] = {}
    for row in written:
        if row["optimizer"] == "sgd" and int(row["seed"]) >= 1000:
            setting = f"lr {float(row['lr']):g}, momentum {float(row['momentum']):g}"
            finals.setdefault(setting, []).append(float(row["loss"]))
    finals = {setting: losses for setting, losses in finals.items() if len(losses) == 3}
    assert len(finals) == 5
    assert f"SGD {min(finals, key=lambda setting: math.prod(finals[setting]))}" in printed
    for text in (
        "YellowFin untuned none",
        "lr, common",
        "10 steps, 100 dimensions",
        "seeds 0 to 1",
    ):
        assert text in printed


def test_one_optimizer_without_a_momentum_panel(tmp_path: Path, no_theory: None) -> None:
    result = robustness(tmp_path, *FEW)
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert len(rows(tmp_path)) == TUNING + FACTORS
    assert "SGD" not in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            "--workload mnist",
            "'--workload': 'mnist'; choose from quadratic, digits-mlp",
        ),
        (
            "--optimizer sgd --optimizer lion",
            "'--optimizer': 'lion'; choose from sgd, adam, adamw",
        ),
        ("--steps 0", "Invalid value for '--steps'"),
        ("--seeds 0", "Invalid value for '--seeds'"),
        ("--threads 0", "Invalid value for '--threads'"),
        ("--resume", "'--resume': there is no run in"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_trained(
    tmp_path: Path, arguments: str, complaint: str
) -> None:
    result = robustness(tmp_path / "out", *arguments.split())
    assert result.exit_code == 2, result.output
    assert complaint in said(result)
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "robustness.csv").write_text("no\nnumbers\n")
    result = robustness(tmp_path, *FEW, "--resume")
    assert result.exit_code == 2
    assert "cannot read" in result.output


def test_names_in_the_help_are_those_there_are() -> None:
    assert tuple(WORKLOADS) == command.WORKLOADS
    assert tuple(CONTESTANTS) == command.OPTIMIZERS


def test_all_of_them_by_default() -> None:
    options = Options()
    assert options.workloads == list(WORKLOADS)
    assert options.optimizers == list(CONTESTANTS)
    assert [options.steps_of(name) for name in WORKLOADS] == [1000, 500, 150]
    assert Options(workload=("text-lstm", "quadratic", "text-lstm")).workloads == [
        *("quadratic", "text-lstm")
    ]


def test_interrupted_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert robustness(whole, *FEW).exit_code == 0

    train = Trainings._run
    ran: list[Job] = []
    kills = [signal.SIGINT]

    def counted(trainings: Trainings, job: Job) -> Outcome:
        if len(ran) == 10 and kills:
            os.kill(os.getpid(), kills.pop())
        outcome = train(trainings, job)
        ran.append(job)
        return outcome

    monkeypatch.setattr(Trainings, "_run", counted)
    result = robustness(cut, *FEW)
    assert result.exit_code == 130
    assert "Interrupted: the same command with --resume goes on from here." in said(result)
    assert len(rows(cut)) == 10
    assert robustness(cut, *FEW, "--resume").exit_code == 0
    assert len(ran) == len(set(ran)) == TUNING + FACTORS
    assert (cut / "robustness.csv").read_bytes() == (whole / "robustness.csv").read_bytes()


def test_interrupted_before_anything_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_theory: None
) -> None:
    def stopped(trainings: Trainings, job: Job) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        return train(trainings, job)

    train = Trainings._run
    monkeypatch.setattr(Trainings, "_run", stopped)
    result = robustness(tmp_path, *FEW)
    assert result.exit_code == 130
    assert "No optimizer is finished yet." in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"robust-region.png"}


def test_a_resumed_run_may_be_larger(tmp_path: Path, no_report: None) -> None:
    """More seeds, another optimizer: what is there stays."""
    assert robustness(tmp_path, *FEW).exit_code == 0
    before = rows(tmp_path)
    more = ("--seeds", "2", "--optimizer", "yellowfin")
    assert robustness(tmp_path, *FEW, *more, "--resume").exit_code == 0
    after = rows(tmp_path)
    assert after[: len(before)] == before
    assert len(after) == len(before) + FACTORS + 2 * FACTORS


def test_without_resume_a_run_is_replaced(tmp_path: Path, no_report: None) -> None:
    assert robustness(tmp_path, *FEW).exit_code == 0
    assert robustness(tmp_path, *FEW, "--steps", "1").exit_code == 0
    assert {row["steps"] for row in rows(tmp_path)} == {"1"}
