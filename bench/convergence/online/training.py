"""One training with a learning rate that a method sets, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import thread_time

import numpy as np
import torch
from torch.optim import SGD, AdamW, Optimizer

from bench.convergence.tasks import TASKS
from yfkernels import YellowFin
from yfkernels.lab.tuning.methods import METHODS, Method, build_method
from yfkernels.lab.tuning.steppers import Scheduled

# Steps, so that a training by the method that costs most ends within half a minute on one core.
STEPS = {
    "digits-mlp": 1500,
    "digits-conv": 500,
    "digits-batch-4": 2000,
    "logistic": 2000,
    "text-transformer": 400,
}
# Over which bases: adaptive ones alone train the transformer.
OVER: dict[str, tuple[str, ...]] = {"text-transformer": ("adamw",)}
BASES: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, momentum=0.9),
    "adamw": partial(AdamW, fused=True),
}
FIRST_LRS = (1e-4, 1e-2, 1.0)
ALONE = "yellowfin"  # needs no base and no learning rate
FIXED_MU = "marthe-0.9"
METHODS_RUN = (*METHODS, FIXED_MU)
POINTS = 50  # kept of the courses
FINAL_SHARE = 0.05  # of the steps, for the final loss
DIVERGED = 10.0  # times the first loss


@dataclass(frozen=True, order=True)
class Cell:
    """A training. Two that are equal give the same losses, bit for bit, on one thread.

    Attributes:
        task: one of `STEPS`.
        base: one of `BASES`; empty for what stands alone.
        method: one of `METHODS_RUN`, or ALONE.
        lr: where it begins; 0 for what stands alone.
        seed: of the weights and of the order of the data.
    """

    task: str
    base: str
    method: str
    lr: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How it went; a number that is not finite is infinite.

    Attributes:
        final_loss: mean training loss over the last 5% of the steps.
        test_loss, test_accuracy: on the test set, in evaluation mode, after the last step.
        diverged: a loss was not finite, or the final one is ten times the first.
        losses: mean training loss of each fiftieth of the run.
        lrs: the learning rate at the beginning of each.
        seconds: processor time.
    """

    final_loss: float
    test_loss: float
    test_accuracy: float
    diverged: bool
    losses: tuple[float, ...]
    lrs: tuple[float, ...]
    seconds: float


def bases_of(task: str) -> tuple[str, ...]:
    """The bases that train a task."""
    return OVER.get(task, tuple(BASES))


def cells(seeds: int) -> Iterator[Cell]:
    """All of them, the seeds one after the other."""
    for seed in range(seeds):
        for task in STEPS:
            yield Cell(task, "", ALONE, 0.0, seed)
            for base in bases_of(task):
                for lr in FIRST_LRS:
                    for method in METHODS_RUN:
                        yield Cell(task, base, method, lr, seed)


def run(cell: Cell) -> Outcome:
    """Trains on three quarters of the training data; the rest is for the validation losses.

    Every contestant does without that rest, whether it validates or not, so that all have seen the
    same training examples. The test data is seen by nobody.
    """
    torch.manual_seed(cell.seed)
    whole = TASKS[cell.task].build()
    task = whole.held_out()
    steps, model = STEPS[cell.task], task.model(cell.seed)
    method: Method
    if cell.method == ALONE:
        method = Scheduled(YellowFin(model.parameters()), None, None)
    else:
        optimizer = BASES[cell.base](model.parameters(), lr=cell.lr)
        name, mu = ("marthe", 0.9) if cell.method == FIXED_MU else (cell.method, None)
        method = build_method(name, optimizer, total_steps=steps, mu=mu)
    training, validation = task.batches(cell.seed), task.test_batches(cell.seed + 1)
    losses: list[float] = []
    lrs: list[float] = []
    started = thread_time()
    for step in range(steps):
        if step * POINTS // steps > (step - 1) * POINTS // steps:
            lrs.append(method.diagnostics()["lr"])
        batch, held_out = next(training), next(validation)
        loss = method.step(
            partial(task.loss, model, batch), partial(task.loss, model, held_out)
        ).item()
        losses.append(loss)
        if not math.isfinite(loss):
            break
    seconds = thread_time() - started
    test = whole.evaluate(model)
    complete = len(losses) == steps
    share = round(FINAL_SHARE * steps)
    final = float(np.mean(losses[-share:])) if complete else math.inf
    return Outcome(
        final_loss=final,
        test_loss=_finite(test.loss),
        test_accuracy=_finite(test.accuracy),
        diverged=not complete or final > DIVERGED * losses[0],
        losses=tuple(float(part.mean()) for part in np.array_split(losses, POINTS) if len(part)),
        lrs=tuple(lrs),
        seconds=seconds,
    )


def _finite(number: float) -> float:
    return number if math.isfinite(number) else math.inf
