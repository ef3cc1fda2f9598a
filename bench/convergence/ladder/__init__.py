"""Is YellowFin's default step size right at every size, length and batch? For `--module`.

A change of this file makes the stored trainings another text's, see `outside.register`; what a rung
is stands in `rungs`, what they say in `outcome`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer

from bench.convergence.ladder.rungs import RUNGS
from bench.convergence.tasks import TaskSpec
from yfkernels import YellowFin


def _yellowfin(model: nn.Module, *, lr: float) -> Optimizer:
    return YellowFin(model.parameters(), lr=lr)


def _adamw(model: nn.Module, *, lr: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr, fused=True)


MULTIPLIERS = {f"yellowfin-x{lr:g}": lr for lr in (0.25, 0.5, 1.0, 2.0, 4.0)}
RATES = {f"adamw-{lr:g}": lr for lr in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    **{name: partial(_yellowfin, lr=lr) for name, lr in MULTIPLIERS.items()},
    **{name: partial(_adamw, lr=lr) for name, lr in RATES.items()},
}
TASKS: dict[str, TaskSpec] = {
    rung.name: TaskSpec(rung.build, rung.steps, has_classes=False) for rung in RUNGS
}
