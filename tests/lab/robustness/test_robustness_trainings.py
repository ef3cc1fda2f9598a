"""A training against the same steps in NumPy, and the file that remembers it."""

from __future__ import annotations

import csv
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from yfkernels.lab.robustness.trainings import Job, Outcome, Stopped, Trainings, read
from yfkernels.lab.workloads.convex import quadratic


def quickly(momentum: float | None = 0.9, **other: object) -> Job:
    given = {"workload": "quadratic", "steps": 30, "optimizer": "sgd", "lr": 0.3, "seed": 4}
    return Job(momentum=momentum, **{**given, **other})  # type: ignore[arg-type]


def never() -> bool:
    return False


def test_a_training_is_what_numpy_makes_of_it(tmp_path: Path) -> None:
    task, job = quadratic(), quickly()
    hessian = task.hessian.double().numpy()
    x = next(task.model(job.seed).parameters()).detach().double().numpy()
    buffer, noise = np.zeros_like(x), task.batches(job.seed)
    initial = 0.5 * x @ hessian @ x
    for _ in range(job.steps):
        buffer = 0.9 * buffer + hessian @ x + next(noise)[0].double().numpy()
        x = x - job.lr * buffer
    found = Trainings(tmp_path / "t.csv", never, {}).outcome(job)
    assert found.initial_loss == pytest.approx(initial, rel=1e-5)
    assert found.loss == pytest.approx(0.5 * x @ hessian @ x, rel=1e-4)


def test_each_is_run_once_and_written_at_once(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    trainings = Trainings(file, never, {})
    jobs = [quickly(), quickly(lr=0.1), quickly(None, optimizer="yellowfin", lr=1.0, steps=3)]
    found = {}
    for count, job in enumerate(jobs, start=1):
        found[job] = trainings.outcome(job)
        assert len(read(file)) == count
    assert read(file) == found
    assert list(tmp_path.iterdir()) == [file]
    again = Trainings(file, lambda: True, read(file))  # which would stop a training
    assert [again.outcome(job) for job in jobs] == [found[job] for job in jobs]
    with file.open(newline="", encoding="utf-8") as lines:
        assert next(csv.reader(lines)) == [
            *("workload", "steps", "optimizer", "lr", "momentum", "seed", "initial_loss", "loss")
        ]


def test_a_training_that_is_stopped_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    answers = iter([False] * 10)
    trainings = Trainings(file, lambda: next(answers, True), {})
    with pytest.raises(Stopped):
        trainings.outcome(quickly())
    assert not file.exists()


@pytest.mark.parametrize("lr", [10.0, 1e30])
def test_one_that_diverges_ends_early(tmp_path: Path, lr: float) -> None:
    steps: list[int] = []
    trainings = Trainings(tmp_path / "t.csv", lambda: bool(steps.append(1)), {})
    found = trainings.outcome(quickly(lr=lr, steps=10_000))
    assert found.loss == math.inf
    assert len(steps) < 30
    assert read(tmp_path / "t.csv") == {quickly(lr=lr, steps=10_000): found}


def test_a_small_multiplier_is_meant(tmp_path: Path) -> None:
    """YellowFin warns of one elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = quickly(None, optimizer="yellowfin", lr=0.01, steps=5)
        assert math.isfinite(Trainings(tmp_path / "t.csv", never, {}).outcome(job).loss)


@pytest.mark.parametrize("text", ["workload,steps\nquadratic,1\n", "workload\n\x00\n"])
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"cannot read .*t\.csv: remove it, or leave --resume out"):
        read(file)


def test_reading_numbers_gives_them_back(tmp_path: Path) -> None:
    outcome = Outcome(1 / 3, math.inf)
    job = quickly(lr=0.1 + 0.2)
    trainings = Trainings(tmp_path / "t.csv", never, {job: outcome})
    trainings.outcome(quickly(steps=1))
    assert read(tmp_path / "t.csv")[job] == outcome
