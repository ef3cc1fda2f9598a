"""What an asynchronous run leaves: a table, a figure, every push as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from yfkernels.lab.asynchrony.figure import plot_asynchronous
from yfkernels.lab.asynchrony.training import Training
from yfkernels.lab.console import counted, full_name, tell_files, write_csv

NAME = "async"  # of the files
MANY = 8  # workers of which the table does not name each


def report(training: Training, workers: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Prints the table, writes CSV and figure of what has been recorded so far.

    Args:
        training: the training.
        workers: the counts of each real worker, in plain types.
        folder: an existing folder for the files.
        console: prints.
    """
    if not training.rows:
        console.print("No push has come yet.")
        return
    write_csv(folder / f"{NAME}.csv", training.rows)
    title = f"{training.task.title}: {full_name(training.recipe)}"
    conditions = _conditions(training)
    console.print(title, style="bold")
    console.print(_table(training, workers))
    if training.hopeless:
        console.print(
            "Diverged: the gradients are not finite any more; begin with a smaller lr.",
            style="bold red",
        )
    console.print(f"{conditions}.", style="dim")
    figure = plot_asynchronous(training.rows, title=title, note=conditions)
    figure.savefig(folder / f"{NAME}.png")
    tell_files(console, folder, NAME)


def _table(training: Training, workers: Mapping[str, Any]) -> Table:
    evaluation, log = training.evaluate(), training.server.log
    table = Table(box=box.SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("", overflow="fold")
    table.add_row("Test loss", f"{evaluation.loss:.3g}")
    table.add_row("Test accuracy", f"{evaluation.accuracy:.1%}")
    table.add_row("Applied", f"{log.applied} of {len(training.rows)} pushes")
    refused = ", ".join(f"{count} {name}" for name, count in _refusals(training).items())
    table.add_row("Refused", refused or "none")
    if log.applied:
        stalest = max(log.staleness)
        table.add_row("Staleness", f"mean {log.mean_staleness:.1f}, largest {stalest}")
    if training.timed:
        table.add_row("Speed", f"{training.timed / training.seconds:.3g} pushes a second")
    if workers:
        table.add_row("By worker", _shares(training, workers))
    if lost := _losses(workers):
        table.add_row("Lost", lost)
    return table


def _refusals(training: Training) -> Counter[str]:
    """Number of refused pushes by reason, in plain words."""
    log = training.server.log
    return Counter({_WORDS.get(r.name, r.value): n for r, n in log.refusals.most_common()})


# The others are sentences that fit.
_WORDS = {
    "STALE": "too stale",
    "RULE": "by the rule",
    "NONFINITE": "not finite",
    "LEASE": "too late, the batch was lent again",
}


def _shares(training: Training, workers: Mapping[str, Any]) -> str:
    """How many applied pushes came from each worker, also from one that came too late for any."""
    applied = sorted((counts["applied"] for counts in workers.values()), reverse=True)
    applied += [0] * (training.options.workers - len(applied))
    if len(applied) > MANY:
        return f"from {applied[-1]} to {applied[0]} pushes"
    return f"{', '.join(map(str, applied))} pushes"


def _losses(workers: Mapping[str, Any]) -> str:
    """Which workers were lost, and why."""
    return "; ".join(
        f"{name}: {', '.join(counts['losses'])}"
        for name, counts in workers.items()
        if counts["losses"]
    )


def _conditions(training: Training) -> str:
    """What the numbers depend on, for people."""
    options = training.options
    engine = options.engine if options.staleness is None else f"{options.staleness}, simulated"
    rule = "" if options.rule == "none" else f", rule {options.rule}"
    limit = "" if options.max_staleness is None else f", staleness <= {options.max_staleness}"
    return (
        f"{options.workers} workers ({engine}){rule}{limit}; {training.task.conditions}; seed "
        f"{options.seed}, {counted(options.threads, 'CPU thread')} each, torch {torch.__version__}"
    )
