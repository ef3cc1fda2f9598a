"""Longer and larger trainings, for `--module bench.convergence.large`: minutes each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer

from bench.convergence.tasks import TaskSpec
from yfkernels.lab.workloads.mnist import mnist_conv
from yfkernels.lab.workloads.text import text_transformer


def _adamw(model: nn.Module, *, lr: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr, fused=True)


TASKS: dict[str, TaskSpec] = {
    "text-transformer-long": TaskSpec(text_transformer, 6000, has_classes=False),
    "text-transformer-wide": TaskSpec(partial(text_transformer, 256, 4), 1000, has_classes=False),
    "mnist-conv": TaskSpec(mnist_conv, 1000),
}
# with the default of AdamW, 1e-3, a small grid: a whole one would take days
CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    f"adamw-{lr:g}": partial(_adamw, lr=lr) for lr in (1e-4, 3e-4, 3e-3, 1e-2)
}
