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
from yfkernels.lab.workloads.training import StepRecord, Task, train

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
            course = Course(resized, tuned, lr=lr, epochs=epochs, seed=seed)
            model = course.trained()
            test = resized.evaluate(model)
            yield Outcome(
                batch_size=batch_size,
                steps=course.steps,
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
        courses = (Course(task, recipe, lr=lr, epochs=epochs, seed=seed) for seed in TUNING_SEEDS)
        return fmean(task.evaluate(course.trained()).accuracy for course in courses)

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


class Course:
    """One training with warm-up and linear decay; iterate over it for a record of every step.

    Args:
        task: what to train on, with its batch size.
        recipe: the optimizer.
        lr: the highest of the schedule.
        epochs: passes over the training examples.
        seed: of the weights and the batch order.

    Attributes:
        model: as trained so far.
        optimizer: that trains it.
        steps: that a whole training takes.
    """

    def __init__(self, task: Task, recipe: Recipe, *, lr: float, epochs: int, seed: int) -> None:
        self.model = task.model(seed)
        self.optimizer = recipe.with_options(lr=lr).build(self.model)
        self.steps = math.ceil(epochs * task.training_size / task.batch_size)
        self._task, self._seed = task, seed

    def __iter__(self) -> Iterator[StepRecord]:
        schedule = LambdaLR(self.optimizer, _warm_up_and_decay(self.steps))
        for record in train(
            self._task, self.model, self.optimizer, steps=self.steps, seed=self._seed
        ):
            schedule.step()
            yield record

    def trained(self) -> nn.Module:
        """The model after all steps."""
        for _ in self:
            pass
        return self.model


def _warm_up_and_decay(steps: int) -> Callable[[int], float]:
    """Linear up over the first `WARM_UP` of the steps, then linear down to the last one."""
    rise = max(1, round(WARM_UP * steps))
    fall = max(1, steps - rise)
    return lambda taken: min((taken + 1) / rise, (steps - taken) / fall)
