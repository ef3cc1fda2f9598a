"""Learning rates that a tuner decides on, beside those in the groups that schedules write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

Group = dict[str, Any]
TUNED, SEEN = "tuned_lr", "scheduled_lr"


def tuned_lr(group: Group) -> float:
    """The group's tuned learning rate: what a schedule has done since is a factor on it.

    `group["lr"]` stays the user's, so that every schedule composes with the tuning, those that
    work a learning rate out from the first one too.
    """
    lr = float(group["lr"])
    if not group.get(SEEN):  # nothing yet, or 0, of which nothing is a multiple
        return lr
    return float(group[TUNED] * (lr / group[SEEN]))


def tune(group: Group, lr: float) -> None:
    """Makes `lr` the group's learning rate from the next step on."""
    group[TUNED], group[SEEN] = lr, float(group["lr"])


@contextmanager
def applied(groups: list[Group]) -> Iterator[None]:
    """The tuned learning rates stand in the groups meanwhile."""
    scheduled = [group["lr"] for group in groups]
    values = [float(lr) for lr in scheduled]
    try:
        for group in groups:
            _write(group, group[TUNED])
        yield
    finally:
        for group, lr, value in zip(groups, scheduled, values):
            _write(group, value)
            if not isinstance(lr, Tensor):
                group["lr"] = lr  # as it was, an int maybe


def _write(group: Group, value: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value
