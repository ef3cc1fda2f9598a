"""Trainings with learning rates that a method sets: the same twice, stored, resumed, reported."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("typer")

from typer.testing import CliRunner

from bench.common import trainings
from bench.convergence.online import cli, comparison, report, training
from bench.convergence.online.training import ALONE, METHODS_RUN, Cell, Outcome
from bench.speed import tangent_pass
from yfkernels.ops.tangents import ADAM, FAMILIES, MOMENTUM, PLAIN


@pytest.fixture(autouse=True)
def short(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(training, "STEPS", {"logistic": 60})
    monkeypatch.setattr(report, "STEPS", {"logistic": 60})


@pytest.mark.parametrize("method", [*METHODS_RUN, ALONE])
def test_a_training_is_the_same_twice(method: str) -> None:
    cell = Cell("logistic", "" if method == ALONE else "sgd", method, 1e-2, 3)
    first, second = (replace(training.run(cell), seconds=0.0) for _ in range(2))
    assert first == second
    assert len(first.losses) == len(first.lrs) == training.POINTS
    assert 0.3 < first.final_loss < 0.8
    assert 0.5 < first.test_accuracy <= 1.0
    assert (len(set(first.lrs)) > 1) == (method not in ("constant", ALONE))
    assert training.run(replace(cell, seed=4)).losses != first.losses


def test_a_training_that_diverges_says_so() -> None:
    outcome = training.run(Cell("logistic", "sgd", "constant", 1e30, 0))
    assert outcome.diverged
    assert outcome.final_loss > 1e3
    outcome = training.run(Cell("logistic", "sgd", "constant", 1e38, 0))
    assert outcome.diverged
    assert outcome.final_loss == math.inf
    assert len(outcome.losses) < training.POINTS


def test_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trainings, "in_processes", lambda run, cells, **_: ((cell, run(cell)) for cell in cells)
    )
    runner, path = CliRunner(), tmp_path / cli.FILE
    arguments = ["run", "--seeds", "1", "--only", "logistic/sgd/[ch]*", "--out", str(tmp_path)]
    assert runner.invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    whole = dict(trainings.read(path, Cell, Outcome))
    assert len(whole) == 9  # constant, cosine-restarts, hd from three learning rates
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:20])
    assert len(dict(trainings.read(path, Cell, Outcome))) == 4
    assert runner.invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    again = dict(trainings.read(path, Cell, Outcome))
    assert {cell: replace(o, seconds=0.0) for cell, o in again.items()} == {
        cell: replace(o, seconds=0.0) for cell, o in whole.items()
    }
    reported = runner.invoke(cli.app, ["report", "--out", str(tmp_path)], catch_exceptions=False)
    assert reported.exit_code == 0
    table = (tmp_path / "trainings.md").read_text()
    assert "| logistic | HD |" in table
    assert all(
        (tmp_path / name).stat().st_size > 10_000 for name in ("outcomes.png", "learning-rates.png")
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "counts"),
    [
        ([0.9, 0.91, 0.92, 0.93, 0.94], [0.8, 0.81, 0.82, 0.83, 0.84], (1, 0, 0)),
        ([0.8, 0.81, 0.82, 0.83, 0.84], [0.9, 0.91, 0.92, 0.93, 0.94], (0, 0, 1)),
        ([0.9, 0.8, 0.92, 0.82, 0.94], [0.89, 0.81, 0.91, 0.83, 0.93], (0, 1, 0)),
        ([0.1, 0.11, 0.12, 0.13, 0.14], [0.2, 0.21, 0.22, 0.23, 0.24], (0, 0, 0)),
    ],
    ids=["better", "worse", "no different", "nobody learns"],
)
def test_who_is_better(
    ours: list[float],
    theirs: list[float],
    counts: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparison, "STEPS", {"logistic": 60})
    monkeypatch.setattr(comparison, "bases_of", lambda task: ("sgd",))
    outcomes = {
        Cell("logistic", "sgd", method, 0.01, seed): Outcome(
            0.5, 0.5, accuracy, False, losses=(), lrs=(), seconds=0.0
        )
        for method, accuracies in (("hd", ours), ("constant", theirs))
        for seed, accuracy in enumerate(accuracies)
    }
    assert comparison.compare(outcomes, "hd", "constant", 0.01) == counts


def test_passes_are_timed_beside_a_copy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [tangent_pass.bytes_of(family) for family in FAMILIES] == [24, 36, 48]
    assert FAMILIES == (PLAIN, MOMENTUM, ADAM)
    monkeypatch.setattr(tangent_pass, "_PARAMETERS", 20_000)
    monkeypatch.setattr(tangent_pass, "_ROUNDS", 2)
    monkeypatch.setattr("sys.argv", ["tangent_pass"])
    tangent_pass.main()
    comment, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert comment[0].startswith("# date")
    assert [row[0] for row in rows[1:]] == ["plain"] * 2 + ["momentum"] * 2 + ["adam"] * 2
    assert all(float(row[3]) > 0 and float(row[5]) > 0 for row in rows[1:])
