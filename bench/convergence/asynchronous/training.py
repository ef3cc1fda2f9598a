"""One training with stale gradients, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from time import thread_time

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.convergence.asynchronous.contestants import CONTESTANTS
from bench.convergence.tasks import TASKS
from yfkernels import YellowFin
from yfkernels.asynchronous import Record, Server, Simulator
from yfkernels.asynchronous.engines.simulator import memoryless, round_robin
from yfkernels.lab.workloads.training import Task

# of every training; multiples of WORKERS
GRADIENTS = {"digits-conv": 960, "text-lstm": 960, "digits-mlp": 2880}
COMPARED = ("digits-conv", "text-lstm")  # all contestants
GENERALIZING = ("digits-conv", "digits-mlp")  # plain SGD, with every learning rate
WORKERS = 16
ARRANGEMENTS = {
    "round-robin": "16 workers in turn",
    "memoryless": "16 workers, any next",
    "synchronous": "16 gradients averaged in a step",
    "sequential": "one worker",
}
POINTS = 60  # kept of the courses
FINAL_SHARE = 0.05  # of the gradients, for the final loss
DIVERGED = 10.0  # times the first loss


@dataclass(frozen=True, order=True)
class Cell:
    """A training. Two that are equal give the same losses, bit for bit, on one thread.

    Attributes:
        task: one of `GRADIENTS`.
        arrangement: one of `ARRANGEMENTS`.
        contestant: one of `CONTESTANTS`.
        lr: 0 for what is not tuned.
        seed: of the weights, of the data's order and of the workers'.
    """

    task: str
    arrangement: str
    contestant: str
    lr: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How it went; a number that is not finite is infinite.

    Attributes:
        final_loss: mean training loss of the last 5% of the gradients.
        test_loss, test_accuracy: on the test set, in evaluation mode, at the end.
        diverged: a loss was not finite, or the final one is ten times the first.
        losses: mean training loss of each sixtieth of the gradients.
        momenta, targets, totals: of YellowFin, at the end of each: the momentum that is set, the
            one that is wanted, and the reading; empty for others.
        seconds: processor time.
    """

    final_loss: float
    test_loss: float
    test_accuracy: float
    diverged: bool
    losses: tuple[float, ...]
    momenta: tuple[float, ...]
    targets: tuple[float, ...]
    totals: tuple[float, ...]
    seconds: float


def grid() -> Iterator[Cell]:
    """Every learning rate of every contestant, with the first seed."""
    for task in COMPARED:
        for arrangement in ARRANGEMENTS:
            for name in taking_part(arrangement):
                for lr in CONTESTANTS[name].lrs or (0.0,):
                    yield Cell(task, arrangement, name, lr, 0)


def repeated(outcomes: Mapping[Cell, Outcome], seeds: int) -> Iterator[Cell]:
    """The learning rate of each that ended lowest, with the other seeds.

    Args:
        outcomes: of the grid, complete.
        seeds: how many in all.
    """
    for seed in range(1, seeds):
        for task in COMPARED:
            for arrangement in ARRANGEMENTS:
                for name in taking_part(arrangement):
                    yield replace(best(outcomes, task, arrangement, name), seed=seed)


def generalizing(seeds: int) -> Iterator[Cell]:
    """Plain SGD, stale and not: does a large learning rate help on examples that it has not seen?

    Source of the question: Sun et al., "Scheduling Hyperparameters to Improve Generalization", doi
    10.1145/3544782, who say so; their released code trains synchronously.
    """
    for seed in range(seeds):
        for task in GENERALIZING:
            for arrangement in ("round-robin", "sequential"):
                for lr in CONTESTANTS["sgd"].lrs:
                    yield Cell(task, arrangement, "sgd", lr, seed)


def best(outcomes: Mapping[Cell, Outcome], task: str, arrangement: str, name: str) -> Cell:
    """The cell of the grid with the lowest final training loss."""
    lrs = CONTESTANTS[name].lrs or (0.0,)
    found = [Cell(task, arrangement, name, lr, 0) for lr in lrs]
    return min(found, key=lambda cell: (outcomes[cell].final_loss, cell.lr))


def taking_part(arrangement: str) -> tuple[str, ...]:
    """The contestants of an arrangement: without stale gradients a few are enough."""
    if arrangement in ("sequential", "synchronous"):
        return ("yellowfin", "adamw", "momentum")
    weighed = arrangement == "round-robin"
    return tuple(name for name, each in CONTESTANTS.items() if weighed or each.rule is None)


def run(cell: Cell) -> Outcome:
    """Trains."""
    torch.manual_seed(cell.seed)
    contestant, task = CONTESTANTS[cell.contestant], TASKS[cell.task].build()
    gradients, model = GRADIENTS[cell.task], task.model(cell.seed)
    optimizer = contestant.optimizer(model.parameters(), cell.lr)
    started = thread_time()
    if cell.arrangement == "synchronous":
        steps = _synchronous(task, model, optimizer, gradients, cell.seed)
    else:
        rule = None if contestant.rule is None else contestant.rule()
        server = Server(model, optimizer, staleness_rule=rule)
        steps = _asynchronous(task, model, server, gradients, cell)
    losses: list[float] = []
    courses: list[tuple[float, ...]] = []
    for loss in steps:
        losses.append(loss)
        if not math.isfinite(loss):
            break
        if len(losses) % (gradients // POINTS) == 0 and isinstance(optimizer, YellowFin):
            shown = optimizer.diagnostics()
            names = ("momentum", "target_momentum", "total_momentum")
            courses.append(tuple(_finite(shown[name]) for name in names))
    seconds = thread_time() - started
    test = task.evaluate(model)
    complete = len(losses) == gradients
    final = math.inf
    if complete:
        final = float(np.mean(losses[-round(FINAL_SHARE * gradients) :]))
    momenta, targets, totals = zip(*courses) if courses else ((), (), ())
    return Outcome(
        final_loss=final,
        test_loss=_finite(test.loss),
        test_accuracy=_finite(test.accuracy),
        diverged=not complete or final > DIVERGED * losses[0],
        losses=tuple(float(part.mean()) for part in np.array_split(losses, POINTS) if len(part)),
        momenta=momenta,
        targets=targets,
        totals=totals,
        seconds=seconds,
    )


def _asynchronous(
    task: Task, model: nn.Module, server: Server, gradients: int, cell: Cell
) -> Iterator[float]:
    """The losses of pushes that are applied, or refused."""
    batches = task.batches(cell.seed)

    def loss(_: object) -> Tensor:
        return task.loss(model, next(batches))

    schedule = {
        "round-robin": lambda: round_robin(WORKERS, gradients),
        "memoryless": lambda: memoryless(WORKERS, gradients, cell.seed),
        "sequential": lambda: round_robin(1, gradients),
    }[cell.arrangement]()
    record: Record
    for record in Simulator(server, loss).steps(schedule):
        yield record.loss


def _synchronous(
    task: Task, model: nn.Module, optimizer: Optimizer, gradients: int, seed: int
) -> Iterator[float]:
    """The losses of minibatches, whose gradients are averaged over `WORKERS` of them."""
    batches = task.batches(seed)
    for _ in range(gradients // WORKERS):
        optimizer.zero_grad()
        losses = []
        for _ in range(WORKERS):
            loss = task.loss(model, next(batches))
            (loss / WORKERS).backward()
            losses.append(loss.item())
        optimizer.step()
        yield from losses


def _finite(number: float) -> float:
    return number if math.isfinite(number) else math.inf
