"""Rows of the report's CSV files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

from bench.convergence.contestants import CONTESTANTS
from bench.convergence.summary import Spread, Summary
from bench.convergence.targets import Assessment

OF_THE_END = ("train_loss", "test_loss", "test_accuracy")  # with an average, too
MEASURES = (
    "final_loss",
    *OF_THE_END,
    "spikes",
    "long_spikes",
    "longest_spike",
    "highest_spike",
    "diverged",
    "optimizer_us",
    "seconds",
)
MEASURES_HEADER = ("task", "contestant", "setting", "measure", "median", "low", "high", "seeds")
FINDINGS_HEADER = (
    "contestant",
    "target",
    "outcome",
    "task",
    "value",
    "bound",
    "rival",
    "p",
    "holds",
)


def measures(summaries: Sequence[Summary]) -> Iterator[Sequence[object]]:
    """Every measure of every contestant."""
    for summary in summaries:
        for name in summary.results:
            for measure, spread in _spreads(summary, name).items():
                numbers = (f"{one:.4g}" for one in (spread.median, spread.low, spread.high))
                row = (summary.task, name, summary.settings[name], measure)
                yield (*row, *numbers, len(spread.values))


def _spreads(summary: Summary, name: str) -> Mapping[str, Spread]:
    average = CONTESTANTS[name].average
    spreads = {
        measure: summary.spread(name, attrgetter(measure))
        for measure in (OF_THE_END if average else MEASURES)
        if measure != "test_accuracy" or summary.has_classes
    }
    if average:
        return spreads
    ratio = summary.iteration_ratio(name)
    if ratio is not None:
        spreads["iterations / tuned AdamW's"] = ratio
    for level, loss in summary.levels.items():
        spreads[f"iterations to {level} {loss:.4g}"] = summary.iterations(name, loss)
    return spreads


def findings(assessments: Sequence[Assessment]) -> Iterator[Sequence[object]]:
    """Every target on every task."""
    for assessment in assessments:
        for one in assessment.findings:
            numbers = (f"{one.value:.4g}", f"{one.bound:.4g}", one.rival, f"{one.p:.3g}")
            holds = "yes" if one.holds else "no"
            row = (assessment.contestant, assessment.target, assessment.outcome, one.task)
            yield (*row, *numbers, holds)
