"""`yfkernels async` from the outside, on the simulator: files, table, refusals, interruption."""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from matplotlib.image import imread
from typer.testing import CliRunner, Result

from yfkernels.asynchronous import RULES, AgeGate, DropOlder
from yfkernels.lab import cli
from yfkernels.lab.asynchrony import command, options, run
from yfkernels.lab.asynchrony.training import Training
from yfkernels.lab.console import write_csv

COLUMNS = ["step", "epoch", "worker", "loss", "staleness", "applied", "refusal"]
READINGS = ["lr", "momentum", "target_momentum", "total_momentum"]
FEW = ("--workload", "digits-mlp", "--batch-size", "128", "--epochs", "2")  # 11 an epoch


@pytest.fixture(autouse=True)
def alone(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rank of torchrun's, and torch's threads after the test."""
    monkeypatch.delenv("RANK", raising=False)


def train(out: Path, *arguments: str) -> Result:
    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"})
    return runner.invoke(cli.app, ["async", "--out", str(out), *arguments])


def said(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "async.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_and_table(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    result = train(out, *FEW, "--workers", "3")
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"checkpoint.pt", "async.csv", "async.png"}
    written = rows(out)
    assert list(written[0]) == [*COLUMNS, *READINGS]
    assert [row["step"] for row in written] == [str(step) for step in range(1, 23)]
    assert [row["epoch"] for row in written] == ["1"] * 11 + ["2"] * 11
    assert [row["worker"] for row in written[:4]] == [
        "worker 1",
        "worker 2",
        "worker 3",
        "worker 1",
    ]
    assert [row["staleness"] for row in written] == ["0", "1", *["2"] * 20]
    assert all(row[name] for row in written[-5:] for name in READINGS)
    height, width, _ = imread(out / "async.png").shape
    assert (height, width) >= (700, 1200)
    printed = said(result)
    for text in (
        "YellowFin, closed loop (defaults)",
        "Test loss",
        "Applied 22 of 22 pushes",
        "Refused none",
        "Staleness mean 1.9, largest 2",
        "pushes a second",
        "3 workers (round-robin, simulated); 1347 training and 450 test examples, batch 128;",
        "async.png",
    ):
        assert text in printed


def test_refused_pushes_are_told_by_reason(tmp_path: Path) -> None:
    few = (*FEW, "--staleness", "memoryless", "--workers", "4")
    result = train(tmp_path, *few, "--rule", "drop_older:3", "--max-staleness", "5")
    assert result.exit_code == 0, result.output
    written = rows(tmp_path)
    applied = [row for row in written if row["applied"] == "True"]
    assert [int(row["step"]) for row in applied] == list(range(1, 23))
    by_rule = [row for row in written if row["refusal"] == "rule"]
    stale = [row for row in written if row["refusal"] == "stale"]
    assert len(by_rule) + len(stale) == len(written) - 22
    assert {int(row["staleness"]) for row in by_rule} == {4, 5}
    assert min(int(row["staleness"]) for row in stale) > 5
    assert max(int(row["staleness"]) for row in applied) <= 3
    assert not any(row[name] for row in (*by_rule, *stale) for name in READINGS)
    printed = said(result)
    assert f"{len(by_rule)} by the rule" in printed
    assert f"{len(stale)} too stale" in printed
    assert "rule drop_older:3, staleness <= 5" in printed


RESUMED = {
    "yellowfin": "--workers 5 --staleness memoryless --rule cosine_gate",
    "open loop": "--workers 3 --workload digits-conv --optimizer yellowfin:closed_loop=false",
    "sgd": "--workers 4 --optimizer sgd:lr=0.02 --max-staleness 2",
}


@pytest.mark.parametrize("arguments", RESUMED.values(), ids=RESUMED)
def test_interrupted_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    """To the bit: gradients that were on their way at the interruption are in the checkpoint."""
    monkeypatch.setattr(run, "report", _write_csv_alone)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(whole, *FEW, *arguments.split()).exit_code == 0

    record = Training.record

    def interrupted(training: Training, *args: Any) -> None:
        record(training, *args)
        if len(training.rows) == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "record", interrupted)
        result = train(cut, *FEW, *arguments.split())
    assert result.exit_code == 130
    assert "Interrupted: the same command with --resume goes on from here." in said(result)
    assert len(rows(cut)) == 7

    other = train(cut, *FEW, *arguments.split(), "--seed", "1", "--resume")
    assert other.exit_code == 2
    need = "'--seed': 1; the run to resume has 0; give it the same"
    assert need in said(other)

    other = train(cut, *FEW, *arguments.split(), "--workload", "text-lstm", "--resume")
    assert "'--workload': 'text-lstm'; the run to resume has" in said(other)

    assert train(cut, *FEW, *arguments.split(), "--resume").exit_code == 0
    assert (cut / "async.csv").read_bytes() == (whole / "async.csv").read_bytes()
    before = (cut / "checkpoint.pt").read_bytes()
    assert (
        train(cut, *FEW, *arguments.split(), "--resume").exit_code == 0
    )  # nothing is left to train
    assert (cut / "checkpoint.pt").read_bytes() == before


def _write_csv_alone(training: Training, workers: Any, folder: Path, console: Any) -> None:
    """Figures and evaluations take a second each."""
    write_csv(folder / "async.csv", training.rows)


def test_a_run_that_diverges_ends_and_says_so(tmp_path: Path) -> None:
    """Though it has not applied what it was to: no gradient is finite any more."""
    hot = ("--optimizer", "sgd:lr=1e30", "--workload", "digits-mlp", "--pushes", "1000")
    result = train(tmp_path, *hot)
    assert result.exit_code == 0
    assert "Diverged: the gradients are not finite any more" in said(result)
    assert "not finite" in said(result).split("Refused")[1]
    written = rows(tmp_path)
    assert len(written) < 100
    assert {row["refusal"] for row in written[-50:]} == {"nonfinite"}
    assert train(tmp_path, *hot, "--resume").exit_code == 0
    assert rows(tmp_path) == written


def test_pushes_say_when_to_end(tmp_path: Path) -> None:
    assert train(tmp_path, "--workload", "digits-mlp", "--pushes", "25").exit_code == 0
    assert [row["epoch"] for row in rows(tmp_path)] == ["1"] * 22 + ["2"] * 3


def test_however_many_pushes_are_refused_it_comes_to_the_end(tmp_path: Path) -> None:
    """Of eight workers in turn, the one that is fresh is applied."""
    few = ("--workload", "digits-mlp", "--pushes", "10", "--workers", "8")
    assert train(tmp_path, *few, "--max-staleness", "0").exit_code == 0
    written = rows(tmp_path)
    assert [row["step"] for row in written if row["applied"] == "True"] == [
        str(step) for step in range(1, 11)
    ]
    assert len(written) > 60


def test_the_help_shows_every_name() -> None:
    assert command.ENGINES == options.ENGINES
    assert command.ORDERS == options.ORDERS
    assert tuple(options.WORKLOADS) == command.WORKLOADS
    assert [rule.partition(":")[0] for rule in command.RULES] == ["none", *RULES]
    printed = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(cli.app, ["async", "--help"])
    for names in (command.ENGINES, command.ORDERS, command.WORKLOADS, command.RULES):
        assert f"[{'|'.join(names)}]" in said(printed)


def test_options_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Training] = []
    monkeypatch.setattr(run, "run", lambda training, *_, **__: ran.append(training) or True)
    given = "--workers 7 --optimizer qhm:lr=0.3 --workload digits-mlp --staleness memoryless"
    more = "--rule age_gate:decay=0,cutoff=9 --max-staleness 30 --batch-size 32 --pushes 99"
    last = "--seed 5 --threads 2"
    assert train(tmp_path, *f"{given} {more} {last}".split()).exit_code == 0
    (training,) = ran
    assert training.options == options.Options(
        engine="simulator",
        workers=7,
        optimizer="qhm:lr=0.3",
        workload="digits-mlp",
        staleness="memoryless",
        rule="age_gate:decay=0,cutoff=9",
        max_staleness=30,
        batch_size=32,
        epochs=None,
        pushes=99,
        seed=5,
        threads=2,
    )
    assert training.server.optimizer.param_groups[0]["lr"] == 0.3
    assert training.total_pushes == 99
    assert training.server._max_staleness == 30
    rule = training.server._rule
    assert isinstance(rule, AgeGate)
    assert rule.weight(8, []) > rule.weight(9, []) == 0.0


def test_a_rule_has_a_short_form() -> None:
    for text in ("drop_older:8", "drop_older:limit=8"):
        rule = options.Options(rule=text).build_rule()
        assert isinstance(rule, DropOlder)
        assert (rule.weight(8, []), rule.weight(9, [])) == (1.0, 0.0)
    assert options.Options().build_rule() is None


REFUSED = [
    (
        "--engine mpi",
        "'--engine': 'mpi'; choose from simulator, gloo, ray",
    ),
    ("--workers 1", "'--workers': 1; give at least 2; with fewer no gradient is"),
    ("--engine gloo --workers 0", "'--workers': 0; give at least 2; with fewer"),
    (
        "--workload mnist",
        "'--workload': 'mnist'; choose from digits-conv, digits-mlp, text-",
    ),
    (
        "--optimizer lion",
        "'--optimizer': 'lion'; no optimizer 'lion'; choose from yellowf",
    ),
    ("--optimizer sgd:lr=-1", "'--optimizer': 'sgd:lr=-1'; SGD refuses 'lr=-1'"),
    (
        "--optimizer sgd:lr=abc",
        "SGD refuses 'lr=abc': an option it does not have, or a value of another type",
    ),
    (
        "--optimizer yellowfin:closed_loop=maybe",
        "'yellowfin:closed_loop=maybe'; closed_loop is true, false or paper",
    ),
    (
        "--optimizer yellowfin:trust_ratio=true,robust=false",
        "Invalid trust_ratio value: True; it must be False with closed_loop",
    ),
    ("--staleness fifo", "'--staleness': 'fifo'; choose from round-robin"),
    (
        "--engine gloo --staleness memoryless",
        "'--staleness': 'memoryless'; gloo runs real workers, whose",
    ),
    (
        "--rule fresh",
        "'--rule': 'fresh'; choose from none, delay_adaptive, drop",
    ),
    ("--rule drop_older", "'--rule': 'drop_older'; say how old: drop_older:8"),
    ("--rule drop_older:limit=-1", "Invalid limit value: -1; it must be an integer >= 0"),
    (
        "--rule age_gate:cutof=3",
        "'--rule': 'age_gate:cutof=3'; an option it does not have, or a value of another type",
    ),
    ("--rule age_gate:3", "'--rule': 'age_gate:3'; cannot read '3'; write"),
    ("--max-staleness -1", "Invalid value for '--max-staleness'"),
    ("--batch-size 0", "Invalid value for '--batch-size'"),
    (
        "--batch-size 2000",
        "'--batch-size': 2000; there are 1347 training examples",
    ),
    (
        "--epochs 2 --pushes 9",
        "'--pushes': 9; --epochs says when to end; leave one out",
    ),
    ("--port 29500", "'--port': 29500; simulator has none; leave it out"),
    ("--engine gloo --port 99999", "Invalid value for '--port'"),
    ("--address auto", "'--address': 'auto'; simulator has none; leave it"),
    ("--resume", "'--resume': there is no run in"),
    ("--engine gloo --resume", "'--resume': there is no run in"),
]


@pytest.mark.parametrize(("arguments", "complaint"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_does_not_fit_is_named_before_anything_is_trained(
    tmp_path: Path, arguments: str, complaint: str
) -> None:
    result = train(tmp_path / "out", *arguments.split())
    assert result.exit_code == 2, result.output
    assert complaint in said(result)
    assert not (tmp_path / "out").exists()


def test_a_missing_ray_is_told_how_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = train(tmp_path / "out", "--engine", "ray")
    assert result.exit_code == 2
    assert 'Ray is not installed: pip install "yfkernels[ray]"' in said(result)


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    result = train(tmp_path, "--resume")
    assert result.exit_code == 2
    assert "cannot read" in said(result)
