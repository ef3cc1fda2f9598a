"""What the stored trainings say about a task: measures over the seeds, against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from bench.convergence import measures
from bench.convergence.campaign import Campaign
from bench.convergence.contestants import REFERENCE
from bench.convergence.measures import Losses
from bench.convergence.result import TrainingResult
from bench.convergence.store import Store
from bench.convergence.tasks import TASKS

# Losses that count as targets besides the paper's: what the reference has after such a share.
LEVELS = {"early": 0.05, "middle": 0.2, "late": 0.5, "end": 0.95}


@dataclass(frozen=True)
class Spread:
    """Values of one measure, one a seed."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The lowest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest."""
        return max(self.values)


@dataclass(frozen=True)
class Summary:
    """A task's trainings.

    Attributes:
        task: its name.
        data: which data, where that depends on the machine.
        results: contestant to one training a seed, in the order of the seeds, as the contestant
            reads it: with an average, it ends with that. Only those that are complete, in the
            order of the report.
        settings: contestant to the options it was trained with.
        at_edge: tuned contestants whose best value is the first or last that was tried.
    """

    task: str
    data: str
    results: Mapping[str, Sequence[TrainingResult]]
    settings: Mapping[str, str]
    at_edge: Sequence[str]

    @property
    def steps(self) -> int:
        """Of every training."""
        return TASKS[self.task].steps

    @property
    def has_classes(self) -> bool:
        """Whether the test metric is the accuracy (high is good), else the test loss (low is)."""
        return TASKS[self.task].has_classes

    def spread(self, contestant: str, measure: Callable[[TrainingResult], float]) -> Spread:
        """A measure of every seed."""
        return Spread(tuple(float(measure(result)) for result in self.results[contestant]))

    def metric(self, contestant: str) -> Spread:
        """The test metric."""
        if self.has_classes:
            return self.spread(contestant, lambda result: result.test_accuracy)
        return self.spread(contestant, lambda result: result.test_loss)

    def error(self, contestant: str) -> Spread:
        """The test metric, such that low is good."""
        metric = self.metric(contestant)
        if not self.has_classes:
            return metric
        return Spread(tuple(1.0 - value for value in metric.values))

    def trace(self, contestant: str) -> Losses:
        """Median over the seeds of the running loss; infinite after a training broke off."""
        width = len(measures.sampled_steps(self.steps))
        rows = [[*r.trace, *[math.inf] * (width - len(r.trace))] for r in self.results[contestant]]
        middle: Losses = np.median(rows, axis=0)
        return middle

    @property
    def levels(self) -> dict[str, float]:
        """Target losses: the lowest of the reference's median trace up to a share of the steps."""
        if REFERENCE not in self.results:
            return {}
        return {name: self.reached(share) for name, share in LEVELS.items()}

    def reached(self, share: float) -> float:
        """The lowest loss of the reference's median trace up to a share of the steps."""
        at = np.array(measures.sampled_steps(self.steps))
        lowest = np.minimum.accumulate(self.trace(REFERENCE))
        return float(lowest[np.searchsorted(at, share * self.steps)])

    def iterations(self, contestant: str, loss: float) -> Spread:
        """Steps to a running loss, of every seed."""
        return self.spread(
            contestant, lambda result: measures.steps_to(result.trace, self.steps, loss)
        )

    def iteration_ratio(self, contestant: str) -> Spread | None:
        """Steps over the reference's, to the lowest loss that both reach, of every seed.

        None without the reference.
        """
        if REFERENCE not in self.results:
            return None
        ratios = []
        for ours, theirs in zip(self.results[contestant], self.results[REFERENCE]):
            loss = measures.lowest_common(ours.trace, theirs.trace)
            steps = [measures.steps_to(one.trace, self.steps, loss) for one in (ours, theirs)]
            ratios.append(steps[0] / steps[1] if math.isfinite(steps[0]) else math.inf)
        return Spread(tuple(ratios))


def summarize(
    store: Store, tasks: Sequence[str], contestants: Sequence[str], seeds: Sequence[int]
) -> list[Summary]:
    """The complete trainings of each task that has some.

    Where a task has results on several data (its text is another in another Python), those with
    the most trainings are taken, for the others cannot be compared with them.
    """
    summaries = []
    for task in tasks:
        counts: dict[str, int] = {}
        for result in store:
            if result.key.task == task and result.key.steps == TASKS[task].steps:
                counts[result.key.data] = counts.get(result.key.data, 0) + 1
        if counts:
            data = max(counts, key=lambda one: counts[one])
            summaries.append(_summary(store, Campaign({task: data}, contestants, seeds), task))
    return [summary for summary in summaries if summary.results]


def _summary(store: Store, campaign: Campaign, task: str) -> Summary:
    results, settings, at_edge = {}, {}, []
    for contestant in campaign.contestants:
        phase = campaign.phase(task, contestant, store)
        found = [campaign.found(cell, store) for cell in phase.cells]
        complete = [one for one in found if one is not None]
        if phase.options is None or len(complete) < len(found):
            continue
        results[contestant] = complete
        settings[contestant] = phase.cells[0].key.setting
        if phase.is_at_edge:
            at_edge.append(contestant)
    return Summary(task, campaign.data[task], results, settings, at_edge)
