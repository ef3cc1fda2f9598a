"""Total momentum, of an optimizer and of its workers together, read from moves of coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RESOLVED = 64.0  # roundings that a move must span for a ratio to it to say anything
_FEWEST = 16  # ratios of which a median is taken


def total_momentum(before: Tensor, move: Tensor, own: Tensor, smallest: Tensor) -> float | None:
    """The momentum that explains the moves as those of synchronous training.

    A gradient with staleness tau was taken at x(t - tau), where the next move should have been the
    momentum's part of the move before, plus its own. So, over coordinates,

        mu = median of (move(t - tau) - own(t)) / move(t - tau - 1).

    If fewer than 16 coordinates have moved enough, and some too little, the estimate is the median
    of all ratios, weighted by the sizes of the moves: the fit of least absolute error.

    Args:
        before: move(t - tau - 1) of each coordinate, of shape (n,).
        move: move(t - tau), that of the step after.
        own: the part of this step's move that its gradient alone makes.
        smallest: the moves that roundings drown, of shape (n,).

    Returns:
        None if nothing has moved, or the ratios overflow.

    Source: Zhang, Mitliagkas, "YellowFin and the Art of Momentum Tuning", arXiv 1706.03471,
    section 4; the robust fallback is ours.
    """
    ratios, sizes = (move - own).div_(before), before.abs()
    # An overflow leaves an infinity that counts on its side, and 0/0 is not larger than smallest.
    usable = sizes > smallest
    if int(usable.sum()) >= min(_FEWEST, len(before)):
        middle = float(ratios.where(usable, math.nan).nanmedian())
        return middle if math.isfinite(middle) else None
    known = ratios.isfinite()
    return _weighted_median(ratios[known], sizes[known])


def _weighted_median(values: Tensor, weights: Tensor) -> float | None:
    """The value that half of the weight lies below; None if there is no weight."""
    if not bool(weights.any()):
        return None
    order = values.argsort()
    below = weights[order].cumsum(0)
    return float(values[order][torch.searchsorted(below, 0.5 * below[-1])])
