"""Trainings, each of which is run once and written down as soon as it has ended."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from yfkernels.lab.console import small_lrs_are_meant, write_csv
from yfkernels.lab.robustness.contestants import CONTESTANTS, Setting
from yfkernels.lab.robustness.options import WORKLOADS
from yfkernels.lab.workloads.training import Task, train

HOPELESS = 1e4  # times the initial loss: the training has diverged and is not gone on with


@dataclass(frozen=True)
class Job:
    """All that the course of a training depends on.

    Attributes:
        workload: of `WORKLOADS`.
        steps: length.
        optimizer: of `CONTESTANTS`.
        lr, momentum: its setting.
        seed: of the weights and the batch order.
    """

    workload: str
    steps: int
    optimizer: str
    lr: float
    momentum: float | None
    seed: int


@dataclass(frozen=True)
class Outcome:
    """The loss over the training set before the first step and after the last.

    `loss` is infinite where the training diverged.
    """

    initial_loss: float
    loss: float


class Stopped(Exception):
    """The user wants no more."""


class Trainings:
    """Runs what has not been run yet.

    Args:
        file: where every training is written down, a line each; replaced by the first.
        asked: whether the user has asked to stop.
        done: those that are known, as `read` finds them; may be empty.
    """

    def __init__(self, file: Path, asked: Callable[[], bool], done: Mapping[Job, Outcome]) -> None:
        self._file = file
        self._asked = asked
        self._done = dict(done)

    def outcome(self, job: Job) -> Outcome:
        """What has come, or comes, of a training.

        Raises:
            Stopped: it has been asked for before the training ended, which is then lost.
        """
        if job not in self._done:
            self._done[job] = self._run(job)
            self._write()
        return self._done[job]

    def _run(self, job: Job) -> Outcome:
        task = _task(job.workload)
        model = task.model(job.seed)
        initial = _initial_loss(job.workload, job.seed)
        setting = Setting(job.lr, job.momentum)
        optimizer = CONTESTANTS[job.optimizer].build(model, setting)
        with small_lrs_are_meant():
            for record in train(task, model, optimizer, steps=job.steps, seed=job.seed):
                if self._asked():
                    raise Stopped
                if not record.loss <= HOPELESS * initial:  # NaN, too
                    return Outcome(initial, math.inf)
        loss = task.evaluate_training(model).loss
        return Outcome(initial, loss if math.isfinite(loss) else math.inf)

    def _write(self) -> None:
        """All of it anew: a kill at any moment leaves the file as it was, or this one."""
        written = self._file.with_name(f"{self._file.name}.new")
        rows = ({**asdict(job), **asdict(outcome)} for job, outcome in self._done.items())
        write_csv(written, rows)
        written.replace(self._file)


def read(file: Path) -> dict[Job, Outcome]:
    """What `Trainings` wrote down.

    Raises:
        FileNotFoundError: nothing yet.
        ValueError: it cannot be read.
    """
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    try:
        return {
            Job(
                workload=row["workload"],
                steps=int(row["steps"]),
                optimizer=row["optimizer"],
                lr=float(row["lr"]),
                momentum=float(row["momentum"]) if row["momentum"] else None,
                seed=int(row["seed"]),
            ): Outcome(*(float(row[field.name]) for field in fields(Outcome)))
            for row in rows
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read {file}: remove it, or leave --resume out") from error


@cache
def _initial_loss(workload: str, seed: int) -> float:
    task = _task(workload)
    return task.evaluate_training(task.model(seed)).loss


@cache
def _task(workload: str) -> Task:
    return WORKLOADS[workload].build()
