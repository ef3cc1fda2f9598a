"""A task that takes milliseconds, for the convergence benchmark's ``--module`` and its tests."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from bench.convergence.tasks import TaskSpec
from yfkernels.lab.workloads.examples import ExamplesTask

STEPS = 60


class Slow(SGD):
    """Leaves time to be killed in."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.005)
        return super().step(*args, **kwargs)


def tiny() -> ExamplesTask:
    """Is the first of four numbers positive?"""
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    examples = inputs, (inputs[:, 0] > 0).long()

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    return ExamplesTask("Tiny", model, F.cross_entropy, examples, examples, batch_size=16)


TASKS = {"tiny": TaskSpec(tiny, STEPS)}
CONTESTANTS = {
    "slow": lambda model: Slow(model.parameters(), lr=0.1),
    "reckless": lambda model: SGD(model.parameters(), lr=1e30),
}
