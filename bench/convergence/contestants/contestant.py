"""What a row of the convergence report is: an optimizer, its options or their grid, its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from bench.common.contestant import Contestant
from bench.convergence.result import TrainingResult
from yfkernels.lab.recipes import Recipe

Schedule = Callable[[int, int], float]  # steps taken and steps in all, to a multiplier of lr


@dataclass(frozen=True)
class Axis:
    """An option and the values that are tried for it."""

    option: str
    values: tuple[float, ...]


LRS = Axis("lr", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1))  # of everything like Adam


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingContestant(Contestant):
    """A row of the report. If it is ours, targets are for it.

    Attributes:
        recipe: the optimizer with the options a user would start from.
        optimizer: its name in the stored trainings, which contestants share that differ only in
            the options they find, or in the weights they end with.
        schedule: of lr; None for a constant one.
        search: options to tune, one after the other, each with the best of those before it.
        average: whether it ends with the average of its weights instead of the last ones. The
            training is the same.
    """

    recipe: Recipe
    optimizer: str
    schedule: Schedule | None = None
    search: tuple[Axis, ...] = ()
    average: bool = False

    @property
    def why_absent(self) -> str | None:
        """Why it cannot take part, or None if it can."""
        try:
            optimizer = self.recipe.build(nn.Linear(2, 2))
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        if self.average and is_schedule_free(optimizer):
            return "it is schedule-free and has an average of its own"
        return None

    def with_average(self) -> TrainingContestant:
        """The same training as another row, which ends with the average of the weights."""
        name, label = f"{self.name}+average", f"{self.label} + average"
        return replace(self, name=name, label=label, average=True)

    def reading(self, result: TrainingResult) -> TrainingResult | None:
        """What a stored training says of this row: None if it lacks the average that is needed."""
        if not self.average:
            return result
        return result.averaged() if result.has_average else None


def is_schedule_free(optimizer: object) -> bool:
    """Whether it is evaluated, with its own average, in another mode than it trains in."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


def cosine(taken: int, steps: int) -> float:
    """From 1 down to 0 along half a wave."""
    return 0.5 * (1.0 + math.cos(math.pi * taken / steps))
