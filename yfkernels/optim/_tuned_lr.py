"""Learning rates that a tuner decides on, beside those in the groups that schedules write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
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
