"""What is promised for YellowFin with nothing tuned, and whether the trainings keep it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.convergence.contestants import (
    CONTESTANTS,
    DEFAULT_RIVALS,
    NEWER_RIVALS,
    REFERENCE,
    beside,
)
from bench.convergence.result import TrainingResult
from bench.convergence.seed_noise import FEWEST_SEEDS, no_worse
from bench.convergence.summary import Spread, Summary

SHARE_AS_FAST = 2 / 3  # of the tasks
AT_MOST = 1.5  # times the reference's iterations, on any task
TUNED_IN_TEN = 8  # of ten tasks
RISE = 10.0  # times its own lowest running loss, at the end of any seed

Measure = Callable[[Summary, str], Spread]


@dataclass(frozen=True)
class Finding:
    """One task under one target.

    Attributes:
        task: its name.
        value: what was measured: a median over the seeds, a sum or the worst of them.
        bound: what it is held against.
        rival: whose that is; empty where it is a fixed number.
        p: chance of values so much worse if there were no difference; NaN where none was tested.
        holds: whether the target does.
    """

    task: str
    value: float
    bound: float
    rival: str
    p: float
    holds: bool


@dataclass(frozen=True)
class Assessment:
    """A target of one contestant.

    Attributes:
        target: in words.
        contestant: whose.
        findings: one a task that could tell.
        needed: on how many of them it must hold.
    """

    target: str
    contestant: str
    findings: Sequence[Finding]
    needed: int

    @property
    def held(self) -> int:
        """On how many tasks it holds."""
        return sum(finding.holds for finding in self.findings)

    @property
    def outcome(self) -> str:
        """`held`, `missed` or `not measured`."""
        if not self.findings:
            return "not measured"
        return "held" if self.held >= self.needed else "missed"


def check(summaries: Sequence[Summary], contestant: str) -> list[Assessment]:
    """The targets of one contestant, on the tasks where it has been trained.

    With an average of the weights its rivals have theirs, and what is said of the course of a
    training is left out.
    """
    known = [summary for summary in summaries if contestant in summary.results]
    ends = [*_against_rivals(known, contestant), _against_tuned(known, contestant)]
    if CONTESTANTS[contestant].average:
        return [*ends, _no_rise(known, contestant)]
    return [
        _running_loss(known, contestant),
        *ends,
        *_iterations(known, contestant),
        _none_of("no spike of over 50 steps", known, contestant, lambda one: one.long_spikes),
        _none_of("no divergence", known, contestant, lambda one: one.diverged),
        _no_rise(known, contestant),
    ]


# ---- against others


def _running_loss(known: Sequence[Summary], contestant: str) -> Assessment:
    words = "final running train loss: no worse than the best rival's"
    return _everywhere(words, contestant, _beside_rivals(known, contestant, _final_loss))


def _against_rivals(known: Sequence[Summary], contestant: str) -> list[Assessment]:
    return [
        _everywhere(words, contestant, _beside_rivals(known, contestant, measure))
        for words, measure in (
            ("loss on the training set: no worse than the best rival's", _train_loss),
            ("test metric: no worse than the best rival's", Summary.error),
        )
    ]


def _against_tuned(known: Sequence[Summary], contestant: str) -> Assessment:
    tuned = beside(REFERENCE, average=CONTESTANTS[contestant].average)
    compared = (against_best(one, contestant, [tuned], Summary.error) for one in known)
    findings = [one for one in compared if one is not None]
    return Assessment(
        f"test metric: no worse than AdamW's tuned on its grid, on {TUNED_IN_TEN} of 10 tasks",
        contestant,
        findings,
        math.ceil(TUNED_IN_TEN * len(findings) / 10),
    )


def _beside_rivals(
    known: Sequence[Summary], contestant: str, measure: Measure
) -> Iterable[Finding | None]:
    average = CONTESTANTS[contestant].average
    needed = [beside(name, average=average) for name in DEFAULT_RIVALS]
    newer = [beside(name, average=average) for name in NEWER_RIVALS]
    for summary in known:
        rivals = [*needed, *(name for name in newer if name in summary.results)]
        yield against_best(summary, contestant, rivals, measure)


def against_best(
    summary: Summary, contestant: str, rivals: Sequence[str], measure: Measure
) -> Finding | None:
    """Against the rival with the lowest median, within the noise of the seeds.

    The rival is the best of several in this very measurement, which is hard on the contestant.

    Returns:
        The finding; None if a rival or seeds are missing.
    """
    if any(name not in summary.results for name in rivals):
        return None
    ours = measure(summary, contestant)
    if len(ours.values) < FEWEST_SEEDS:
        return None
    spreads = {name: measure(summary, name) for name in rivals}
    best = min(spreads, key=lambda name: spreads[name].median)
    holds, p = no_worse(ours, spreads[best])
    return Finding(summary.task, ours.median, spreads[best].median, best, p, holds)


def _final_loss(summary: Summary, contestant: str) -> Spread:
    return summary.spread(contestant, lambda result: result.final_loss)


def _train_loss(summary: Summary, contestant: str) -> Spread:
    return summary.spread(contestant, lambda result: result.train_loss)


# ---- of the course of a training


def _iterations(known: Sequence[Summary], contestant: str) -> list[Assessment]:
    ratios = [(one, one.iteration_ratio(contestant)) for one in known]
    paper = [(one.task, ratio.median) for one, ratio in ratios if ratio is not None]

    def within(bound: float) -> list[Finding]:
        return [
            Finding(task, ratio, bound, REFERENCE, math.nan, ratio <= bound)
            for task, ratio in paper
        ]

    return [
        Assessment(
            "iterations: at most tuned AdamW's, on two thirds of the tasks",
            contestant,
            within(1.0),
            math.ceil(SHARE_AS_FAST * len(paper)),
        ),
        _everywhere(f"iterations: at most {AT_MOST} of tuned AdamW's", contestant, within(AT_MOST)),
    ]


def _none_of(
    words: str,
    known: Sequence[Summary],
    contestant: str,
    measure: Callable[[TrainingResult], float],
) -> Assessment:
    counts = [(one.task, sum(one.spread(contestant, measure).values)) for one in known]
    findings = [Finding(task, count, 0.0, "", math.nan, count == 0) for task, count in counts]
    return _everywhere(words, contestant, findings)


def _no_rise(known: Sequence[Summary], contestant: str) -> Assessment:
    """With an average, of its loss on the training set over the lowest of the running loss."""
    worst = [(one.task, one.spread(contestant, rise).high) for one in known]
    findings = [Finding(task, value, RISE, "", math.nan, value <= RISE) for task, value in worst]
    words = "no seed ends above ten times its own lowest running loss"
    return _everywhere(words, contestant, findings)


def rise(result: TrainingResult) -> float:
    """The final loss over the lowest running loss; infinite if the training broke off."""
    lowest = min(result.trace, default=math.inf)
    if not math.isfinite(result.final_loss) or not math.isfinite(lowest):
        return math.inf
    return result.final_loss / max(lowest, float(np.finfo(np.float64).tiny))


def _everywhere(words: str, contestant: str, compared: Iterable[Finding | None]) -> Assessment:
    findings = [one for one in compared if one is not None]
    return Assessment(words, contestant, findings, len(findings))
