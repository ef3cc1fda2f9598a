"""Learning rates that a tuner decides on, beside those in the groups that schedules write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Group = dict[str, Any]
TUNED, TUNING = "tuned_lr", "lr_tuning"


class Tuning(NamedTuple):
    """A group's learning rate, apart from what a schedule makes of it.

    What a schedule does acts as a factor, and the tuning goes on in its own units: a rate that a
    schedule takes to 0 and back is what it was.

    Attributes:
        lr: tuned, for where the schedule is at its largest.
        largest: the largest learning rate that the user or the schedule has given the group.
        factor: the one it has given last, as a fraction of that, in [0, 1].
    """

    lr: float
    largest: float
    factor: float

    @property
    def in_use(self) -> float:
        """The learning rate of a step."""
        return self.lr * self.factor


def last_tuning(group: Group) -> Tuning:
    """Of the last step; before the first, of the step that comes."""
    return Tuning(*group[TUNING]) if group.get(TUNING) else next_tuning(group)


def next_tuning(group: Group) -> Tuning:
    """Of the step that comes, as things are."""
    given = float(group["lr"])
    lr, largest, _ = group.get(TUNING) or (given, given, 1.0)
    if given > largest:  # as in a warm-up
        lr, largest = (lr * (given / largest) if largest else given), given
    return Tuning(lr, largest, given / largest if largest else 0.0)


def tuned_lr(group: Group) -> float:
    """The learning rate of that step."""
    return next_tuning(group).in_use


def begin_step(group: Group) -> None:
    """Takes the schedule's learning rate for this step."""
    _keep(group, next_tuning(group))


def learn(group: Group, lr: float) -> None:
    """Sets the tuned learning rate; the schedule's factor stays that of the last step."""
    _keep(group, last_tuning(group)._replace(lr=lr))


def _keep(group: Group, tuning: Tuning) -> None:
    group[TUNING], group[TUNED] = tuple(tuning), tuning.in_use


@contextmanager
def applied(groups: list[Group]) -> Iterator[None]:
    """The tuned learning rates stand in the groups meanwhile, each in a place of its own."""
    scheduled = [group["lr"] for group in groups]
    try:
        for group, lr in zip(groups, scheduled):
            tuned = group[TUNED]
            group["lr"] = torch.full_like(lr, tuned) if isinstance(lr, Tensor) else tuned
        yield
    finally:
        for group, lr in zip(groups, scheduled):
            group["lr"] = lr
