"""One training: a task, a recipe with its options, a seed."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from statistics import median
from time import thread_time

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import yfkernels
from bench.convergence import measures
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.contestants.contestant import TrainingContestant, is_schedule_free
from bench.convergence.contestants.told import telling
from bench.convergence.result import Key, TrainingResult
from bench.convergence.tasks import TASKS
from yfkernels.lab.averaging import Averaging
from yfkernels.lab.workloads.training import Evaluation, Task, train

TUNING_SEEDS = (1001, 1002)  # apart from those that are measured
NORM_BATCHES = 50  # for BatchNorm's statistics where the weights to evaluate were never trained at


@dataclass(frozen=True)
class Cell:
    """A training that is to be run.

    Attributes:
        key: what is trained; its identity. The task is one of `TASKS`.
        contestant: name of one in `CONTESTANTS` with the optimizer of the key.
        options: those that differ from the recipe's own.
    """

    key: Key
    contestant: str
    options: Mapping[str, float]


def run(cell: Cell, commit: str = "") -> TrainingResult:
    """Trains a cell; the same cell gives the same losses, bit for bit, on one thread.

    An average of the weights is kept beside the training, the same for every optimizer but those
    that are schedule-free.

    Args:
        cell: what to train, with the steps of its task.
        commit: of the checkout, for the record.
    """
    key, steps = cell.key, cell.key.steps
    spec, contestant = TASKS[key.task], CONTESTANTS[cell.contestant]
    torch.manual_seed(key.seed)
    task = spec.build()
    model = task.model(key.seed)
    optimizer = contestant.recipe.with_options(**cell.options).build(model)
    averaging = None
    if is_schedule_free(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    else:
        averaging = Averaging(task, model, optimizer, seed=key.seed)
    schedule = _schedule(optimizer, contestant, steps)

    course, updates = [], []
    started = thread_time()  # says as much on a busy machine
    for record in train(telling(task, optimizer), model, optimizer, steps=steps, seed=key.seed):
        course.append(record.loss)
        updates.append(record.optimizer_seconds)
        if not math.isfinite(record.loss):
            break
        if averaging is not None:
            averaging.follow()
        if schedule is not None:
            schedule.step()
    seconds = thread_time() - started

    losses = np.array(course)
    trace = measures.sample(losses, steps, spec.smoothing)
    spikes = measures.spikes(losses, spec.smoothing)
    training, test = _evaluate(task, model, optimizer, key.seed)
    result = TrainingResult(
        key=key,
        final_loss=measures.final_loss(losses, steps),
        train_loss=training.loss,
        test_loss=test.loss,
        test_accuracy=test.accuracy,
        spikes=spikes.count,
        long_spikes=spikes.long,
        longest_spike=spikes.longest,
        highest_spike=spikes.highest,
        diverged=measures.diverged(losses, spec.smoothing),
        optimizer_us=1e6 * median(updates),
        seconds=seconds,
        versions=_versions(contestant, commit),
        trace=() if key.seed in TUNING_SEEDS else trace,
    )
    return result if averaging is None else _with_average(result, task, averaging)


def _schedule(optimizer: Optimizer, contestant: TrainingContestant, steps: int) -> LambdaLR | None:
    multiplier = contestant.schedule
    if multiplier is None:
        return None
    return LambdaLR(optimizer, lambda taken: multiplier(taken, steps))


def _evaluate(
    task: Task, model: nn.Module, optimizer: Optimizer, seed: int
) -> tuple[Evaluation, Evaluation]:
    """On the training and the test set, with the weights the optimizer means to be used."""
    if is_schedule_free(optimizer):  # its averages take the weights' places
        optimizer.eval()  # type: ignore[attr-defined]
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            with torch.no_grad():
                for batch in islice(task.batches(seed), NORM_BATCHES):
                    task.loss(model, batch)
    return task.evaluate_training(model), task.evaluate(model)


def _with_average(result: TrainingResult, task: Task, averaging: Averaging) -> TrainingResult:
    """Adds what the average gives: nothing where the training broke off, however good it was."""
    losses, accuracy = (math.inf, math.inf), 0.0
    if math.isfinite(result.final_loss):
        with averaging.model() as averaged:
            training, test = task.evaluate_training(averaged), task.evaluate(averaged)
        losses, accuracy = (training.loss, test.loss), test.accuracy
    return replace(
        result,
        average_train_loss=losses[0],
        average_test_loss=losses[1],
        average_test_accuracy=accuracy,
    )


def _versions(contestant: TrainingContestant, commit: str) -> str:
    texts = [f"python {platform.python_version()}", f"torch {torch.__version__}"]
    if contestant.package is not None:
        try:
            texts.append(f"{contestant.package} {version(contestant.package)}")
        except PackageNotFoundError:
            texts.append(contestant.package)
    return ", ".join([*texts, f"yfkernels {yfkernels.__version__} {commit}".strip()])
