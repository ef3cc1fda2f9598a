"""The training loop every task shares: one record a step, and the caller does the watching."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a set of examples.

    Attributes:
        loss: mean loss.
        accuracy: fraction of correct predictions, 0 to 1.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True)
class StepRecord:
    """What one training step cost and brought.

    Attributes:
        step: number of steps taken, 1 after the first.
        loss: loss of this step's batch, before the update.
        optimizer_seconds: wall time of ``optimizer.step()`` alone.
        step_seconds: wall time of the whole step: batch, forward, backward, update.
    """

    step: int
    loss: float
    optimizer_seconds: float
    step_seconds: float


class Task(Protocol):
    """A data set, a model for it, and the measure of success."""

    @property
    def title(self) -> str:
        """What is trained, for people."""

    @property
    def conditions(self) -> str:
        """Sizes of the data and of a batch, for people."""

    @property
    def batch_size(self) -> int:
        """Examples a step."""

    @property
    def training_size(self) -> int:
        """Number of training examples."""

    def with_batch_size(self, batch_size: int) -> Task:
        """The same task with batches of another size."""

    def held_out(self) -> Task:
        """The training examples alone, part of them held out as the test set: for tuning."""

    def model(self, seed: int) -> nn.Module:
        """A freshly initialized model; the same seed gives the same weights."""

    def batches(self, seed: int) -> Iterator[Batch]:
        """Training batches without end; the same seed gives the same order."""

    def test_batches(self, seed: int) -> Iterator[Batch]:
        """The same of the test set, for what validates on that of a task from `held_out`."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar to minimize."""

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Loss and accuracy on the test set; leaves the model as it was."""

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        """The same on the training set."""


def train(
    task: Task, model: nn.Module, optimizer: Optimizer, *, steps: int, seed: int
) -> Iterator[StepRecord]:
    """Trains a model, yielding after every step.

    The loop waits while the caller looks at a record, so what the caller does in between (reading
    ``optimizer.diagnostics()``, evaluating, drawing a progress bar) costs no measured time and
    sees the model and the optimizer exactly as this step left them.

    Args:
        task: what to train on.
        model: a model from ``task.model``; trained in place.
        optimizer: holds the model's parameters.
        steps: number of steps, at least 1.
        seed: order of the batches.

    Yields:
        One record a step.

    Example:
        >>> from yfkernels.lab.workloads.digits import digits_conv
        >>> task = digits_conv()
        >>> model = task.model(seed=0)
        >>> optimizer = yfkernels.YellowFin(model.parameters())
        >>> for record in train(task, model, optimizer, steps=2, seed=0):
        ...     print(record.step, optimizer.diagnostics()["lr"] > 0)
        1 True
        2 True
    """
    batches = task.batches(seed)
    for step in range(1, steps + 1):
        started = perf_counter()
        batch = next(batches)
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        before_update = perf_counter()
        optimizer.step()
        finished = perf_counter()
        yield StepRecord(
            step=step,
            loss=loss.item(),
            optimizer_seconds=finished - before_update,
            step_seconds=finished - started,
        )
