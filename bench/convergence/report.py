"""Tables and pictures of the stored trainings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

from bench.common.results import write_csv
from bench.common.tables import Table
from bench.convergence import pictures, targets
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.store import Store
from bench.convergence.summary import Spread, Summary, summarize
from bench.convergence.targets import Assessment
from bench.convergence.tasks import TASKS, data_of

MEASURES = {
    "final_loss": "running train loss at the end",
    "train_loss": "loss on the training set",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
    "spikes": "spikes",
    "long_spikes": "spikes of over 50 steps",
    "longest_spike": "longest spike, steps",
    "highest_spike": "highest spike, times the minimum so far",
    "diverged": "diverged",
    "optimizer_us": "optimizer.step(), µs",
    "seconds": "training, processor s",
}
NOTES = (
    "Medians over the seeds, with the range. Running train loss: mean of the batch losses, at the "
    "end over the last 5% of the steps; schedule-free optimizers take their steps at other weights "
    "than those they are evaluated with.",
    "Iterations: to the lowest running loss that the contestant and tuned AdamW both reach, over "
    "tuned AdamW's, seed by seed; then to the loss tuned AdamW has after 5, 20, 50 and 95% of "
    "its steps.",
    "Spike: the running loss above twice its minimum so far. Diverged: a loss that is not finite, "
    "or a running loss ten times the first.",
    "YellowFin (default) is `YellowFin(params)`, in the CSV files yellowfin-compact; "
    "(one step size) is `preconditioner=None`, there yellowfin-robust; (published) is "
    "`robust=False`.",
    "Step µs, s: beside other trainings, on different days. What a step takes is measured by "
    "`make bench`, not here.",
    "Tuned: on seeds 1001 and 1002, by the geometric mean of the final running loss. "
    "A star marks a best value at the edge of the grid.",
)
SEED_NOISE = (
    "Rivals: AdamW, Prodigy, schedule-free SGD and schedule-free AdamW, nothing tuned; of them the "
    "one with the best median. A worse median passes as seed noise where that rival's worst seed "
    "is no better and a one-sided Mann-Whitney test does not find it worse (p < .05, not corrected "
    "for the number of tasks)."
)


def write(
    store: Store,
    folder: Path,
    *,
    tasks: Sequence[str],
    contestants: Sequence[str],
    seeds: Sequence[int],
) -> list[Path]:
    """Writes ``tables.md``, ``measures.csv``, ``targets.csv``, ``curves-*.png``, ``summary.png``.

    Args:
        store: the trainings. A contestant appears on a task once all its seeds are there.
        folder: gets the files.
        tasks: names.
        contestants: names.
        seeds: that are measured.

    Returns:
        The files; none if nothing is complete.
    """
    summaries = summarize(store, tasks, contestants, seeds)
    if not summaries:
        return []
    assessments = [
        assessment
        for name in contestants
        if CONTESTANTS[name].ours and any(name in one.results for one in summaries)
        for assessment in targets.check(summaries, name)
    ]
    written = [folder / "tables.md", folder / "measures.csv", folder / "targets.csv"]
    written[0].write_text(_page(summaries, assessments, seeds), encoding="utf-8")
    write_csv(written[1], ("task", "contestant", "setting", *_SPREAD), _measure_rows(summaries))
    write_csv(written[2], _FINDING, _finding_rows(assessments))
    for summary in summaries:
        task = TASKS[summary.task].build()
        data = task.conditions if data_of(TASKS[summary.task]) == summary.data else summary.data
        conditions = f"{data}\n{len(seeds)} seeds (lines: median, bands: range)"
        figure = pictures.draw_curves(summary, task.title, conditions)
        written.append(folder / f"curves-{summary.task}.png")
        figure.savefig(written[-1])
    written.append(folder / "summary.png")
    pictures.draw_summary(summaries).savefig(written[-1])
    return written


# ---- the page


def _page(
    summaries: Sequence[Summary], assessments: Sequence[Assessment], seeds: Sequence[int]
) -> str:
    trainings = sum(len(rows) for one in summaries for rows in one.results.values())
    versions = {
        result.versions for one in summaries for rows in one.results.values() for result in rows
    }
    parts = [
        "# Convergence\n",
        f"{trainings} trainings, {len(summaries)} tasks, seeds {', '.join(map(str, seeds))}.\n",
        *(f"{note}\n" for note in NOTES),
        "![relative to the best](summary.png)\n",
    ]
    if assessments:
        parts += [_target_table(assessments).markdown(), _miss_table(assessments).markdown()]
    for summary in summaries:
        parts.append(_task_table(summary).markdown())
        parts.append(f"![running train loss](curves-{summary.task}.png)\n")
    parts.append("Versions: " + "; ".join(sorted(versions)) + ".\n")
    return "\n".join(parts)


def _target_table(assessments: Sequence[Assessment]) -> Table:
    """A row a target, a column a contestant."""
    names = list(dict.fromkeys(assessment.contestant for assessment in assessments))
    by_both = {(assessment.target, assessment.contestant): assessment for assessment in assessments}
    rows = tuple(
        (target, *(_outcome(by_both[target, name]) for name in names))
        for target in dict.fromkeys(assessment.target for assessment in assessments)
    )
    header = ("", *(CONTESTANTS[name].label for name in names))
    return Table("Targets: outcome, and on how many tasks it holds", header, rows, (SEED_NOISE,))


def _outcome(assessment: Assessment) -> str:
    if not assessment.findings:
        return assessment.outcome
    return f"{assessment.outcome}, {assessment.held} of {len(assessment.findings)}"


def _miss_table(assessments: Sequence[Assessment]) -> Table:
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


def _task_table(summary: Summary) -> Table:
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

    diverged = sum(value("diverged").values)
    yield CONTESTANTS[name].label
    yield summary.settings[name] + (" *" if name in summary.at_edge else "")
    yield _ranged(value("final_loss"))
    yield _ranged(value("train_loss"))
    yield _ranged(summary.metric(name))
    ratio = summary.iteration_ratio(name)
    yield "-" if ratio is None else _ranged(ratio)
    for level in summary.levels:
        yield _short(summary.iterations(name, level).median)
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


# ---- CSV

_SPREAD = ("measure", "median", "low", "high", "seeds")
_FINDING = ("contestant", "target", "outcome", "task", "value", "bound", "rival", "p", "holds")


def _measure_rows(summaries: Sequence[Summary]) -> Iterator[Sequence[object]]:
    for summary in summaries:
        for name in summary.results:
            for measure, spread in _spreads(summary, name).items():
                numbers = (f"{one:.4g}" for one in (spread.median, spread.low, spread.high))
                row = (summary.task, name, summary.settings[name], measure)
                yield (*row, *numbers, len(spread.values))


def _spreads(summary: Summary, name: str) -> Mapping[str, Spread]:
    spreads = {
        measure: summary.spread(name, attrgetter(measure))
        for measure in MEASURES
        if measure != "test_accuracy" or summary.has_classes
    }
    ratio = summary.iteration_ratio(name)
    if ratio is not None:
        spreads["iterations / tuned AdamW's"] = ratio
    for level in summary.levels:
        loss = summary.levels[level]
        spreads[f"iterations to {level} {loss:.4g}"] = summary.iterations(name, level)
    return spreads


def _finding_rows(assessments: Sequence[Assessment]) -> Iterator[Sequence[object]]:
    for assessment in assessments:
        for one in assessment.findings:
            numbers = (f"{one.value:.4g}", f"{one.bound:.4g}", one.rival, f"{one.p:.3g}")
            holds = "yes" if one.holds else "no"
            row = (assessment.contestant, assessment.target, assessment.outcome, one.task)
            yield (*row, *numbers, holds)
