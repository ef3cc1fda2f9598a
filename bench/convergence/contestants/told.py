"""Optimizers whose step asks for the loss, in the training loop of all the others."""

from __future__ import annotations

import math
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from yfkernels.lab.workloads.training import Batch, Task


def with_told_loss(kind: Any) -> type[Optimizer]:
    """A class with `step()` in the place of `step_func(function_value)`, as ScheduleFree+ has it.

    The value is the loss of the batch that gave the gradients, which `telling` leaves in
    `told_loss`.
    """

    class Told(kind):  # type: ignore[misc]
        told_loss = math.nan

        def step(self, closure: None = None) -> None:
            self.step_func(function_value=self.told_loss)

    return Told


def telling(task: Task, optimizer: Optimizer) -> Task:
    """The task; one that tells the optimizer each loss, if it asks for them."""
    if not hasattr(optimizer, "told_loss"):
        return task
    return cast("Task", _Telling(task, optimizer))


class _Telling:
    """A task as the training loop needs it."""

    def __init__(self, task: Task, optimizer: Any) -> None:
        self._task, self._optimizer = task, optimizer
        self.batches = task.batches

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = self._task.loss(model, batch)
        self._optimizer.told_loss = loss.item()
        return loss
