"""Trainings with stale gradients: the same twice, tuned, repeated, reported."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("typer")

from typer.testing import CliRunner

from bench.common import trainings
from bench.convergence.asynchronous import cli, report, training
from bench.convergence.asynchronous.contestants import CONTESTANTS
from bench.convergence.asynchronous.training import ARRANGEMENTS, POINTS, Cell, Outcome


@pytest.fixture(autouse=True)
def short(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for module in (training, report):
        monkeypatch.setattr(module, "GRADIENTS", {"logistic": 240})
        monkeypatch.setattr(module, "COMPARED", ("logistic",))
        monkeypatch.setattr(module, "GENERALIZING", ("logistic",))


@pytest.mark.parametrize(
    ("name", "arrangement"),
    [
        *((name, "round-robin") for name in CONTESTANTS),
        *(("yellowfin", arrangement) for arrangement in ARRANGEMENTS),
    ],
)
def test_a_training_is_the_same_twice(name: str, arrangement: str) -> None:
    lr = 0.01 if CONTESTANTS[name].lrs else 0.0
    cell = Cell("logistic", arrangement, name, lr, 3)
    first, second = (replace(training.run(cell), seconds=0.0) for _ in range(2))
    assert first == second
    assert len(first.losses) == POINTS
    assert len(first.momenta) == (0 if lr else POINTS)
    assert training.run(replace(cell, seed=4)).losses != first.losses


def test_synchronous_training_averages_over_the_workers() -> None:
    """The first losses are those of the untrained model, as with workers that all pulled it."""
    together = training.run(Cell("logistic", "synchronous", "sgd", 1e-9, 0))
    apart = training.run(Cell("logistic", "sequential", "sgd", 1e-9, 0))
    assert together.losses == pytest.approx(apart.losses, rel=1e-3)


def outcome(*losses: float) -> Outcome:
    return Outcome(losses[-1], 0.5, 0.5, False, losses, (), (), (), 0.0)


def test_how_many_gradients_it_took() -> None:
    falling = outcome(*[1.0 - step / POINTS for step in range(POINTS)])
    assert report.gradients_to(falling, 0.5, 240) == 128.0  # a mean of three is a step behind
    assert report.gradients_to(falling, -1.0, 240) == math.inf
    ended = outcome(1.0, 0.5)
    assert report.gradients_to(ended, 0.4, 240) == math.inf


@pytest.fixture
def two_lrs(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(run, cells, **_) -> Iterator[tuple[Cell, Outcome]]:  # type: ignore[no-untyped-def]
        return ((cell, run(cell)) for cell in cells)

    monkeypatch.setattr(trainings, "in_processes", at_once)
    few = {
        name: replace(each, lrs=each.lrs[2:6:2] if each.lrs else ())
        for name, each in CONTESTANTS.items()
    }
    for module in (training, report):
        monkeypatch.setattr(module, "CONTESTANTS", few)


def test_tunes_repeats_and_reports(two_lrs: None, tmp_path: Path) -> None:
    arguments = ["run", "--seeds", "2", "--out", str(tmp_path)]
    runner = CliRunner()
    assert runner.invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    stored = dict(trainings.read(tmp_path / cli.FILE, Cell, Outcome))
    assert set(stored) == {
        *training.grid(),
        *training.generalizing(2),
        *training.repeated(stored, 2),
    }
    chosen = training.best(stored, "logistic", "round-robin", "adamw")
    assert replace(chosen, seed=1) in stored
    other = next(lr for lr in training.CONTESTANTS["adamw"].lrs if lr != chosen.lr)
    assert stored[chosen].final_loss <= stored[replace(chosen, lr=other)].final_loss
    assert replace(chosen, lr=other, seed=1) not in stored
    reported = runner.invoke(cli.app, ["report", "--out", str(tmp_path)], catch_exceptions=False)
    assert reported.exit_code == 0
    table = (tmp_path / "trainings.md").read_text()
    assert "| 16 workers in turn | YellowFin, closed loop |" in table
    assert all(
        (tmp_path / name).stat().st_size > 10_000
        for name in ("losses.png", "momentum.png", "large-lr.png")
    )
