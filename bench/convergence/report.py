"""Tables and pictures of the stored trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.common.results import write_csv
from bench.convergence import csv_rows, maps, pictures, profile, tables, targets
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.profile import Profile, profile_of
from bench.convergence.store import Store
from bench.convergence.summary import Summary, summarize
from bench.convergence.targets import Assessment
from bench.convergence.tasks import TASKS, data_of

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
    "Tuned: on seeds 1001 and 1002, by the geometric mean of the final running loss; with an "
    "average, by that of its loss on the training set. A star marks a best value at the edge of "
    "the grid.",
    "+ average: the same training, measured with an average of its weights (power 8, every 8th "
    "step) instead of the last ones. It has no running loss of its own, nor iterations, spikes or "
    "times (-). Schedule-free optimizers have an average of their own.",
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

    With tuned AdamW, ``profile.csv``, ``profile.png`` and ``scores.png``, too.

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
    profiled = profile_of(summaries)
    page = _page(summaries, assessments, profiled, seeds)
    written[0].write_text(page, encoding="utf-8")
    write_csv(written[1], csv_rows.MEASURES_HEADER, csv_rows.measures(summaries))
    write_csv(written[2], csv_rows.FINDINGS_HEADER, csv_rows.findings(assessments))
    if profiled is not None:
        names = ("profile.csv", "profile.png", "scores.png")
        rows, curves, scores = (folder / name for name in names)
        write_csv(rows, profile.HEADER, profile.rows(profiled))
        pictures.draw_profile(profiled).savefig(curves)
        pictures.draw_scores(profiled).savefig(scores)
        written += [rows, curves, scores]
    for summary in summaries:
        task = TASKS[summary.task].build()
        data = task.conditions if data_of(TASKS[summary.task]) == summary.data else summary.data
        conditions = f"{data}\n{len(seeds)} seeds (lines: median, bands: range)"
        figure = pictures.draw_curves(summary, task.title, conditions)
        written.append(folder / f"curves-{summary.task}.png")
        figure.savefig(written[-1])
    written.append(folder / "summary.png")
    maps.draw_summary(summaries).savefig(written[-1])
    return written


def _page(
    summaries: Sequence[Summary],
    assessments: Sequence[Assessment],
    profiled: Profile | None,
    seeds: Sequence[int],
) -> str:
    keys = {result.key for one in summaries for rows in one.results.values() for result in rows}
    versions = {
        result.versions for one in summaries for rows in one.results.values() for result in rows
    }
    parts = [
        "# Convergence\n",
        f"{len(keys)} trainings, {len(summaries)} tasks, seeds {', '.join(map(str, seeds))}.\n",
        *(f"{note}\n" for note in NOTES),
        "![relative to the best](summary.png)\n",
    ]
    if assessments:
        parts += [
            tables.of_targets(assessments).markdown(),
            tables.of_misses(assessments).markdown(),
        ]
    if profiled is not None:
        parts.append(tables.of_profile(profiled, summaries).markdown())
        parts.append("![performance profile](profile.png)\n")
    for summary in summaries:
        parts.append(tables.of_task(summary).markdown())
        parts.append(f"![running train loss](curves-{summary.task}.png)\n")
    parts.append("Versions: " + "; ".join(sorted(versions)) + ".\n")
    return "\n".join(parts)
