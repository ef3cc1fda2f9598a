"""Results that were never trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.convergence.campaign import Campaign
from bench.convergence.cell import TUNING_SEEDS, Cell
from bench.convergence.measures import sampled_steps
from bench.convergence.result import Key, TrainingResult
from bench.convergence.store import Store


def result(
    key: Key, final_loss: float = 0.1, average: float | None = None, **others: Any
) -> TrainingResult:
    """A training whose running loss falls in a straight line from 1 to the final one.

    With an average, that is the loss of the averaged weights on the training set.
    """
    steps = sampled_steps(key.steps)
    trace = tuple(1.0 + (final_loss - 1.0) * step / key.steps for step in steps)
    values: dict[str, Any] = {
        "train_loss": final_loss,
        "test_loss": 2 * final_loss,
        "test_accuracy": 1.0 - final_loss,
        "spikes": 0,
        "long_spikes": 0,
        "longest_spike": 0,
        "highest_spike": 1.0,
        "diverged": False,
        "optimizer_us": 100.0,
        "seconds": 1.0,
        "versions": "none",
        "trace": () if key.seed in TUNING_SEEDS else trace,
    }
    if average is not None:
        values["average_train_loss"] = average
        values["average_test_loss"] = 2 * average
        values["average_test_accuracy"] = 1.0 - average
    return TrainingResult(key, final_loss, **{**values, **others})


def fill(store: Store, campaign: Campaign, make: Callable[[Cell], TrainingResult]) -> list[Cell]:
    """Stores results until a campaign lacks nothing; returns what was asked for, in its order."""
    asked: list[Cell] = []
    while cells := list(campaign.missing(store)):
        for cell in cells:
            store.add(make(cell))
        asked += cells
    return asked
