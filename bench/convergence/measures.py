"""Numbers from the course of a loss: where it is watched, how it spikes, when it gets somewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 25  # steps in a mean of the trace
FINAL_SHARE = 0.05  # of the steps, for the final loss
SPIKE = 2.0  # times the minimum so far
LONG = 50  # steps
DIVERGED = 10.0  # times the first loss

Losses = NDArray[np.float64]


def running_mean(losses: Losses, window: int) -> Losses:
    """Mean of the last losses at every step; of fewer at the start."""
    total = np.concatenate(([0.0], np.cumsum(losses)))
    end = np.arange(1, len(losses) + 1)
    start = np.maximum(end - window, 0)
    mean: Losses = (total[end] - total[start]) / (end - start)
    return mean


def final_loss(losses: Losses, steps: int) -> float:
    """Mean over the last twentieth; infinite if the training broke off before its end."""
    if len(losses) < steps or not np.isfinite(losses).all():
        return math.inf
    return float(losses[-max(1, round(FINAL_SHARE * steps)) :].mean())


def sampled_steps(steps: int) -> list[int]:
    """The steps at which the running loss is kept: about 150, each at most 4% beyond the last.

    Early steps are kept more densely, for that is where iterations to a loss differ.
    """
    sampled, step = [], 0
    while step < steps:
        spacing = min(max(5, step // 25), max(5, steps // 100))
        step = min(step + spacing, steps)
        sampled.append(step)
    return sampled


def sample(losses: Losses, steps: int, smoothing: int) -> tuple[float, ...]:
    """The running loss at the sampled steps that were reached.

    It is the mean since the last sampled step, and over `smoothing` steps at least; early, where
    that would blur the descent, over a quarter of the steps so far.
    """
    kept: list[float] = []
    before = 0
    for step in sampled_steps(steps):
        if step > len(losses):
            break
        window = max(step - before, FEWEST, min(smoothing, step // 4))
        kept.append(float(losses[max(0, step - window) : step].mean()))
        before = step
    return tuple(kept)


@dataclass(frozen=True)
class Spikes:
    """How often, how long (steps) and how far the running loss rose above its minimum so far."""

    count: int
    long: int
    longest: int
    highest: float


def spikes(losses: Losses, smoothing: int) -> Spikes:
    """Finds where the mean of so many losses exceeds twice its minimum so far, or is not finite."""
    smooth = running_mean(losses, smoothing)[smoothing - 1 :]
    if not len(smooth):
        return Spikes(0, 0, 0, 1.0)
    height = smooth / np.maximum(np.minimum.accumulate(smooth), np.finfo(np.float64).tiny)
    inside = np.concatenate(([False], ~(height <= SPIKE), [False])).astype(int)
    edges = np.diff(inside)
    lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    return Spikes(
        count=len(lengths),
        long=int((lengths > LONG).sum()),
        longest=int(lengths.max(initial=0)),
        highest=float(height.max()),
    )


def diverged(losses: Losses, smoothing: int) -> bool:
    """Whether a loss was not finite, or the mean of so many losses ten times the first."""
    if not np.isfinite(losses).all():
        return True
    return bool((running_mean(losses, smoothing) > DIVERGED * losses[0]).any())


def steps_to(trace: Sequence[float], steps: int, loss: float) -> float:
    """The first sampled step whose running loss is at most this one; infinite if there is none."""
    return next(
        (step for step, reached in zip(sampled_steps(steps), trace) if reached <= loss), math.inf
    )


def lowest_common(first: Sequence[float], second: Sequence[float]) -> float:
    """The lowest running loss that both reach: the paper's target (arXiv 1706.03471, section 5)."""
    return max(min(first, default=math.inf), min(second, default=math.inf))
