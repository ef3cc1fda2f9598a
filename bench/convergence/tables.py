"""Tables of the report on trainings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import attrgetter

from bench.common.tables import Table
from bench.convergence.contestants import CONTESTANTS, REFERENCE, beside
from bench.convergence.profile import FURTHEST, Profile
from bench.convergence.summary import Spread, Summary
from bench.convergence.targets import Assessment, against_best

SEED_NOISE = (
    "Rivals, nothing tuned: AdamW, Prodigy, schedule-free SGD and AdamW and, where they were "
    "trained, ScheduleFree+, ProdigyPlus, Muon, AdEMAMix and SOAP; of them the one with the best "
    "median. With an average of the weights the rivals have theirs, tuned AdamW too. A worse "
    "median passes as seed noise where that rival's worst seed is no better and a one-sided "
    "Mann-Whitney test does not find it worse (p < .05, not corrected for the number of tasks)."
)
PROFILED = (
    "Area: under the share of tasks on which a contestant needs at most tau times the fewest steps "
    "of anyone to the loss that tuned AdamW's median has after three quarters of its steps, for "
    "tau from 1 to 4, over 3: 1 is the fastest everywhere (AlgoPerf's score, arXiv 2306.07179, in "
    "steps). Test metric: on how many tasks it is no worse than tuned AdamW's, within the noise of "
    "the seeds as above; in the last column both with averages, schedule-free ones with their own."
)


def of_targets(assessments: Sequence[Assessment]) -> Table:
    """A row a target, a column a contestant."""
    names = list(dict.fromkeys(assessment.contestant for assessment in assessments))
    by_both = {(assessment.target, assessment.contestant): assessment for assessment in assessments}
    rows = tuple(
        (target, *(_outcome(by_both.get((target, name))) for name in names))
        for target in dict.fromkeys(assessment.target for assessment in assessments)
    )
    header = ("", *(CONTESTANTS[name].label for name in names))
    return Table("Targets: outcome, and on how many tasks it holds", header, rows, (SEED_NOISE,))


def _outcome(assessment: Assessment | None) -> str:
    if assessment is None:
        return "-"
    if not assessment.findings:
        return assessment.outcome
    return f"{assessment.outcome}, {assessment.held} of {len(assessment.findings)}"


def of_misses(assessments: Sequence[Assessment]) -> Table:
    """Where targets do not hold."""
    rows = tuple(
        (
            assessment.target,
            CONTESTANTS[assessment.contestant].label,
            finding.task,
            _short(finding.value),
            _short(finding.bound) + (f" ({finding.rival})" if finding.rival else ""),
            "-" if math.isnan(finding.p) else f"{finding.p:.3f}",
        )
        for assessment in assessments
        for finding in assessment.findings
        if not finding.holds
    )
    return Table(
        "Where they do not hold", ("target", "contestant", "task", "measured", "at most", "p"), rows
    )


def of_profile(profile: Profile, summaries: Sequence[Summary]) -> Table:
    """Areas under the profile, and who ends no worse than tuned AdamW."""
    rows = tuple(
        (
            CONTESTANTS[name].label,
            f"{profile.score(name):.2f}",
            f"{sum(map(math.isfinite, profile.steps[name].values()))} of {len(profile.losses)}",
            _no_worse(summaries, name, average=False),
            _no_worse(summaries, name, average=True),
        )
        for name in profile.ranking()
    )
    header = ("", f"area to {FURTHEST:.0f}", "gets there", "test metric", "with averages")
    return Table(
        "Steps to tuned AdamW's loss, and test metric beside its", header, rows, (PROFILED,)
    )


def _no_worse(summaries: Sequence[Summary], name: str, *, average: bool) -> str:
    ours, tuned = beside(name, average=average), beside(REFERENCE, average=average)
    known = [one for one in summaries if ours in one.results]
    compared = [against_best(one, ours, [tuned], Summary.error) for one in known]
    held = [one.holds for one in compared if one is not None]
    return f"{sum(held)} of {len(held)}" if held else "-"


def of_task(summary: Summary) -> Table:
    """All its contestants."""
    metric = "test accuracy" if summary.has_classes else "test loss"
    header = (
        "", "setting", "train loss", "on the training set", metric, "iterations / AdamW's",
        *(f"to {name}" for name in summary.levels), "spikes, long", "step µs", "s",
    )  # fmt: skip
    rows = tuple(tuple(_task_row(summary, name)) for name in summary.results)
    levels = ", ".join(f"{name} {_short(loss)}" for name, loss in summary.levels.items())
    title = f"{summary.task}: {summary.steps} steps"
    notes = [f"Losses of the levels: {levels}." if levels else "No tuned AdamW yet: no levels."]
    if summary.data:
        notes.append(f"Text: {summary.data}.")
    return Table(title, header, rows, tuple(notes))


def _task_row(summary: Summary, name: str) -> Iterator[str]:
    def value(measure: str) -> Spread:
        return summary.spread(name, attrgetter(measure))

    average = CONTESTANTS[name].average
    yield CONTESTANTS[name].label
    yield summary.settings[name] + (" *" if name in summary.at_edge else "")
    yield "-" if average else _ranged(value("final_loss"))
    yield _ranged(value("train_loss"))
    yield _ranged(summary.metric(name))
    if average:
        yield from "-" * (1 + len(summary.levels) + 3)
        return
    ratio = summary.iteration_ratio(name)
    yield "-" if ratio is None else _ranged(ratio)
    for loss in summary.levels.values():
        yield _short(summary.iterations(name, loss).median)
    diverged = sum(value("diverged").values)
    spikes = f"{sum(value('spikes').values):.0f}, {sum(value('long_spikes').values):.0f}"
    yield spikes + (f"; {diverged:.0f} diverged" if diverged else "")
    yield _short(value("optimizer_us").median)
    yield _short(value("seconds").median)


def _ranged(spread: Spread) -> str:
    return f"{_short(spread.median)} ({_short(spread.low)}–{_short(spread.high)})"


def _short(number: float) -> str:
    """Three digits; infinite is a loss not reached or a training that broke off."""
    if math.isinf(number):
        return "∞"
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"
