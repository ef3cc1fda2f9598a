"""Performance profiles: on how many tasks a contestant is nearly as fast as the fastest.

After AlgoPerf (Dahl et al. 2023, arXiv 2306.07179, section 4; Dolan and Moré, arXiv cs/0102001):

    rho(tau) = share of the tasks with steps / (fewest steps of anyone) <= tau
    score    = 1 / (4 - 1) * integral of rho from 1 to 4

in steps instead of seconds, since all contestants share a machine with other work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.convergence.contestants import CONTESTANTS, REFERENCE
from bench.convergence.summary import Summary

# AlgoPerf lets the algorithm that sets the targets run for three quarters of what contestants get,
# so that one that is a third slower still arrives.
TARGET_SHARE = 0.75
FURTHEST = 4.0  # tau; who takes longer gets nothing


@dataclass(frozen=True)
class Profile:
    """Steps to the targets.

    Attributes:
        losses: task to its target, the running loss that tuned AdamW has after three quarters of
            its steps.
        steps: contestant to its steps on each of these tasks, medians over the seeds; infinite
            where the target is not reached.
    """

    losses: Mapping[str, float]
    steps: Mapping[str, Mapping[str, float]]

    def ratios(self, contestant: str) -> Mapping[str, float]:
        """Steps over the fewest of anyone, task by task."""
        fewest = {task: min(one[task] for one in self.steps.values()) for task in self.losses}
        return {
            task: steps / fewest[task] if math.isfinite(steps) else math.inf
            for task, steps in self.steps[contestant].items()
        }

    def share(self, contestant: str, tau: float) -> float:
        """rho(tau)."""
        ratios = self.ratios(contestant).values()
        return sum(ratio <= tau for ratio in ratios) / len(ratios)

    def score(self, contestant: str) -> float:
        """From 0 to 1, which is the fastest on every task."""
        ratios = self.ratios(contestant).values()
        # a task adds nothing to the integral before its ratio, and 1 / n from there on
        areas = (max(0.0, FURTHEST - ratio) for ratio in ratios)
        return sum(areas) / (FURTHEST - 1.0) / len(ratios)

    def ranking(self) -> list[str]:
        """The contestants, best score first."""
        return sorted(self.steps, key=self.score, reverse=True)


def profile_of(summaries: Sequence[Summary]) -> Profile | None:
    """The profile of everyone that was trained on all tasks that tuned AdamW was trained on.

    A row with an average of the weights has no course of its own, and is left out.

    Returns:
        The profile; None if tuned AdamW was not trained.
    """
    known = [summary for summary in summaries if REFERENCE in summary.results]
    if not known:
        return None
    losses = {summary.task: summary.reached(TARGET_SHARE) for summary in known}
    steps = {
        name: {one.task: one.iterations(name, losses[one.task]).median for one in known}
        for name, contestant in CONTESTANTS.items()
        if not contestant.average and all(name in one.results for one in known)
    }
    return Profile(losses, steps)


HEADER = ("contestant", "task", "loss", "steps", "over_fewest")


def rows(profile: Profile) -> Iterator[Sequence[object]]:
    """Of ``profile.csv``."""
    for name in profile.ranking():
        ratios = profile.ratios(name)
        for task, loss in profile.losses.items():
            steps = f"{profile.steps[name][task]:.0f}"
            yield (name, task, f"{loss:.4g}", steps, f"{ratios[task]:.4g}")
