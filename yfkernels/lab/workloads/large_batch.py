"""What a larger batch costs: the same epochs in fewer steps, the learning rate scaled by rule.

An optimizer is tuned at the smallest batch size only. At the others its learning rate follows the
usual rule, so what is lost on the way is the optimizer's and not the tuner's. Every training warms
up and then decays linearly to zero.

Source: You et al., "Large Batch Optimization for Deep Learning", arXiv 1904.00962, section 4;
Goyal et al., "Accurate, Large Minibatch SGD", arXiv 1706.02677, for the linear rule of SGD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from yfkernels.lab.recipes import Recipe
from yfkernels.lab.workloads.training import Task, train

WARM_UP = 0.2  # share of the steps
TUNING_SEEDS = (1001, 1002, 1003)  # apart from those that are measured
PATIENCE = 3  # learning rates without a gain before the search stops in a direction


@dataclass(frozen=True)
class Outcome:
    """Where one training ended.

    Attributes:
        batch_size: examples a step.
        steps: taken so that every batch size sees as many examples.
        lr: the highest of the schedule.
        seed: of the weights and the batch order.
        train_loss: mean over the whole training set, in evaluation mode.
        test_loss: mean over the test set.
        test_accuracy: fraction of correct predictions, 0 to 1.
    """

    batch_size: int
    steps: int
    lr: float
    seed: int
    train_loss: float
    test_loss: float
    test_accuracy: float


def sweep(
    task: Task,
    tuned: Recipe,
    *,
    batch_sizes: Sequence[int],
    epochs: int,
    seeds: Sequence[int],
) -> Iterator[Outcome]:
    """Trains at every batch size with every seed.

    Args:
        task: what to train on.
        tuned: the optimizer; its ``lr`` is that for the first batch size, as from `tuned_lr`, the
            others follow its ``batch_exponent``.
        batch_sizes: examples a step.
        epochs: passes over the training examples, the same at every batch size.
        seeds: of the weights and the batch orders.

    Yields:
        One outcome a training.
    """
    for batch_size in batch_sizes:
        resized = task.with_batch_size(batch_size)
        lr = tuned.options["lr"] * (batch_size / batch_sizes[0]) ** tuned.batch_exponent
        for seed in seeds:
            model = _trained(resized, tuned, lr=lr, epochs=epochs, seed=seed)
            test = resized.evaluate(model)
            yield Outcome(
                batch_size=batch_size,
                steps=_steps(resized, epochs),
                lr=lr,
                seed=seed,
                train_loss=resized.evaluate_training(model).loss,
                test_loss=test.loss,
                test_accuracy=test.accuracy,
            )


def tuned_lr(task: Task, recipe: Recipe, *, epochs: int) -> float:
    """The learning rate with the best accuracy on held-out training examples.

    Doubles the recipe's own until the accuracy has not risen `PATIENCE` times in a row, then
    halves it likewise.

    Args:
        task: with the batch size to tune for. Its test set is not looked at.
        recipe: the optimizer and the learning rate to start from.
        epochs: passes over the examples that are not held out.
    """
    task = task.held_out()

    def accuracy(lr: float) -> float:
        models = (_trained(task, recipe, lr=lr, epochs=epochs, seed=seed) for seed in TUNING_SEEDS)
        return fmean(task.evaluate(model).accuracy for model in models)

    start = float(recipe.build(task.model(seed=0)).param_groups[0]["lr"])
    best, highest = start, accuracy(start)
    for factor in (2.0, 0.5):
        lr, misses = start, 0
        while misses < PATIENCE:
            lr *= factor
            found = accuracy(lr)
            misses += 1
            if found > highest:
                best, highest, misses = lr, found, 0
    return best


def _trained(task: Task, recipe: Recipe, *, lr: float, epochs: int, seed: int) -> nn.Module:
    model = task.model(seed)
    optimizer = recipe.with_options(lr=lr).build(model)
    steps = _steps(task, epochs)
    schedule = LambdaLR(optimizer, _warm_up_and_decay(steps))
    for _ in train(task, model, optimizer, steps=steps, seed=seed):
        schedule.step()
    return model


def _steps(task: Task, epochs: int) -> int:
    return math.ceil(epochs * task.training_size / task.batch_size)


def _warm_up_and_decay(steps: int) -> Callable[[int], float]:
    """Linear up over the first `WARM_UP` of the steps, then linear down to the last one."""
    rise = max(1, round(WARM_UP * steps))
    fall = max(1, steps - rise)
    return lambda taken: min((taken + 1) / rise, (steps - taken) / fall)
