"""`yfkernels large-batch --sharpness` on few images and few epochs."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from typer.testing import CliRunner

from yfkernels.analysis import sharpness
from yfkernels.lab import cli
from yfkernels.lab.minima import study
from yfkernels.lab.minima.run import rank_correlations
from yfkernels.lab.minima.study import AT_THE_END, SHARES, Plan, measured_on, pair
from yfkernels.lab.recipes import read_recipe
from yfkernels.lab.workloads.digits import digits_conv, digits_mlp
from yfkernels.lab.workloads.large_batch import Course

PLAN = Plan((128, 512), epochs=2, points=2, examples=60)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def few_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end one cheap measure in the place of all."""
    measures = {"trace": ("trace", {"samples": 2})}
    monkeypatch.setattr("yfkernels.lab.minima.study.AT_THE_END", measures)


@pytest.mark.parametrize(("text", "lr"), [("sgd", 0.05), ("yellowfin", 1.0), ("lamb", 0.01)])
def test_a_pair_of_trainings(text: str, lr: float, few_measures: None) -> None:
    task = digits_mlp()
    tables = pair(task, read_recipe(text), [lr, 2 * lr], 0, PLAN)
    ends, course = tables["ends"], tables["course"]
    assert [row["batch_size"] for row in ends] == [128, 512]
    assert [row["step"] for row in course] == [6, 22, 2, 6]
    assert [row["step"] for row in ends] == [22, 6]
    assert [row["lr"] for row in ends] == [lr, 2 * lr]
    for row in course:
        assert row["keskar"] > 0.0
        assert row["lambda_max"] > 0.0
        assert (row["h_max"] is not None) == text.startswith("yellowfin")
    layers = tables["layers"]
    names = [name for name, _ in task.model(0).named_parameters()]
    assert [row["layer"] for row in layers] == names * len(course) * text.startswith("lamb")
    assert all(row["trust_ratio"] > 0.0 for row in layers)
    line = tables["line"]
    assert [row["share"] for row in line] == list(SHARES)
    for end, share in zip(ends, (0.0, 1.0)):
        (same,) = [row for row in line if row["share"] == share]
        for column in ("train_loss", "test_loss", "test_accuracy"):
            assert same[column] == pytest.approx(end[column], rel=1e-5)


def test_the_training_is_the_same_as_unwatched() -> None:
    recipe = read_recipe("sgd")
    end, _ = pair(digits_mlp(), recipe, [0.05, 0.1], 3, PLAN)["ends"]
    task = digits_mlp().with_batch_size(128)
    model = Course(task, recipe, lr=0.05, epochs=2, seed=3).trained()
    assert end["test_loss"] == task.evaluate(model).loss
    for column, (method, options) in {"keskar": ("keskar", {}), **AT_THE_END}.items():
        again = sharpness(model, task.criterion, measured_on(task, PLAN), method, **options)
        assert end[column] == again.value, column


def test_batch_norm_on_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its statistics are taken anew: those of neither end are right in between."""
    monkeypatch.setattr(study, "SHARES", [0.5])
    task = digits_conv()
    one, two = task.model(0), task.model(1)
    (row,) = study._line(task, one, two)
    for model in (one, two):
        for buffer in model.buffers():
            buffer.fill_(7)
    (same,) = study._line(task, one, two)
    assert same == row


def test_rank_correlations() -> None:
    ends = [
        {"keskar": k, "adaptive": -k, "lambda_max": 1.0 + k, "test_loss": k, "train_loss": 2.5 * k}
        for k in (0.1, 0.2, 0.4, 0.5, 0.6, 0.7)
    ]
    head, keskar, adaptive, _ = rank_correlations(ends)
    assert "over 6 trainings, with training loss, test loss, gap" in head
    assert keskar.split() == ["Keskar's", "+1.00,", "+1.00,", "-1.00"]
    assert adaptive.split() == ["adaptive", "-1.00,", "-1.00,", "+1.00"]
    assert rank_correlations(ends[:5]) == []


def test_command(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_measures: None
) -> None:
    monkeypatch.setattr("yfkernels.lab.minima.run.tuned_lr", lambda *_, **__: 0.5)
    monkeypatch.setattr("yfkernels.lab.minima.study.Plan", partial(Plan, points=2, examples=40))
    options = ["--sharpness", "--batch-sizes", "256,1024", "--epochs", "1", "--seeds", "1"]
    command = ["large-batch", "lamb", "yellowfin", *options, "--out", str(tmp_path)]
    result = runner.invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert "Rank correlation" not in result.output  # of four trainings
    for name in ("sharpness", "sharpness-layers", "sharpness-curvature"):
        assert (tmp_path / f"{name}.png").exists()
    for name, count in (("ends", 4), ("line", 2 * len(SHARES))):
        with (tmp_path / f"sharpness-{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        assert {row["optimizer"] for row in rows} == {"LAMB", "YellowFin"}

    # What is finished is kept; what was under way is trained again, with the same result.
    parts = tmp_path / "sharpness.jsonl"
    whole = parts.read_text().splitlines(keepends=True)
    parts.write_text("".join(whole[:-1]) + whole[-1][:100])
    result = runner.invoke(cli.app, [*command, "--resume"])
    assert result.exit_code == 0, result.output
    assert parts.read_text() == "".join(whole)

    result = runner.invoke(cli.app, [*command, "--resume", "--epochs", "2"])
    assert result.exit_code == 2
    assert "the run to resume has 1" in " ".join(result.output.replace("│", " ").split())


def test_ctrl_c_is_told(runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("yfkernels.lab.minima.run.tuned_lr", interrupt)
    result = runner.invoke(cli.app, ["large-batch", "sgd", "--sharpness", "--out", str(tmp_path)])
    assert result.exit_code == 130
    assert "the same command with --resume goes on from here" in result.output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--resume"], "only with --sharpness"),
        (["--sharpness", "--batch-sizes", "32,64,128"], "3 of them; give two with --sharpness"),
        (["--sharpness", "--resume"], "sharpness.jsonl; leave it out"),
    ],
)
def test_what_does_not_fit(
    runner: CliRunner, tmp_path: Path, options: list[str], complaint: str
) -> None:
    result = runner.invoke(cli.app, ["large-batch", *options, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


def test_parts_are_read_by_others(tmp_path: Path) -> None:
    """The file of parts is JSON lines, the options first."""
    from yfkernels.lab.parts import Parts

    Parts(tmp_path / "x.jsonl", {"epochs": 1}, resume=False).add(("sgd", 0), {"ends": []})
    first, second = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert first == {"options": {"epochs": 1}}
    assert second == {"key": ["sgd", 0], "part": {"ends": []}}
