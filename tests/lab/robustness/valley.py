"""Trainings whose losses are known, for sweeps that take no time."""

from __future__ import annotations

import math

from yfkernels.lab.robustness.contestants import Setting
from yfkernels.lab.robustness.sweeps import Sweep, sweep
from yfkernels.lab.robustness.trainings import Job, Outcome

INITIAL = 100.0
BEST = Setting(0.03162, 0.9)


class Valley:
    """The loss is 1 at the best setting, and rises as lr and 1 - momentum depart from it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> Outcome:
        self.jobs.append(job)
        distance = abs(math.log10(job.lr / (1.0 if job.momentum is None else BEST.lr)))
        if job.momentum is not None:
            distance += abs(math.log10((1.0 - job.momentum) / 0.1))
        loss = (1.0 + 0.1 * (job.seed % 1000)) * 10.0**distance
        return Outcome(INITIAL, math.inf if distance > 1.6 else loss)


def swept(optimizer: str, seeds: int = 3) -> tuple[Sweep, Valley]:
    """A contestant in the valley."""
    run = Valley()
    return sweep(run, "quadratic", 7, optimizer, seeds=seeds), run
