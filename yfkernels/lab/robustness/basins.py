"""How wide the basin is: over how many decades of a wrong factor a training still ends well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

MARGIN = 0.1  # part of the way back to the initial loss, on a logarithmic scale
SMALLEST = 1e-12  # a loss below counts as this: logarithms need one


class Basin(NamedTuple):
    """The factors around the best one within which the loss stays at or below a level.

    Attributes:
        low, high: the ends.
        is_open: whether an end is that of the sweep, so that the basin may be wider.
    """

    low: float
    high: float
    is_open: bool

    @property
    def decades(self) -> float:
        """The width."""
        return math.log10(self.high / self.low)


NOWHERE = Basin(1.0, 1.0, False)


def level(best: float, initial: float) -> float:
    """The loss up to which a training counts as good: a tenth of the way back.

    best^0.9 initial^0.1, which treats alike a loss that falls to a thousandth (2 times the best is
    good) and one that falls by half (1.07 times).
    """
    best, initial = max(best, SMALLEST), max(initial, SMALLEST)
    return math.exp((1.0 - MARGIN) * math.log(best) + MARGIN * math.log(initial))


def capped(loss: float, initial: float) -> float:
    """A loss; one that has diverged or grown counts as the initial one."""
    return max(min(loss, initial), SMALLEST)


def basin(factors: Sequence[float], losses: Sequence[float], good: float) -> Basin:
    """The basin around the lowest loss.

    Between two factors the logarithm of the loss is taken as linear in that of the factor.

    Args:
        factors: increasing.
        losses: one for each, finite and > 0.
        good: the level; a single point if nothing reaches it.
    """
    best = min(range(len(losses)), key=lambda place: losses[place])
    if losses[best] > good:
        return NOWHERE
    low = _crossing(factors[best::-1], losses[best::-1], good)
    high = _crossing(factors[best:], losses[best:], good)
    return Basin(low or factors[0], high or factors[-1], low is None or high is None)


def _crossing(factors: Sequence[float], losses: Sequence[float], good: float) -> float | None:
    """Where the loss first rises above a level; None if it never does."""
    for place in range(1, len(losses)):
        inside, outside = losses[place - 1], losses[place]
        if outside > good:
            share = math.log(good / inside) / math.log(outside / inside)
            return factors[place - 1] * math.pow(factors[place] / factors[place - 1], share)
    return None
