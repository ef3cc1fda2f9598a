"""`yfkernels large-batch --sharpness`: trains, measures, keeps what is done, writes, draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from statistics import fmean

from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from yfkernels.lab.console import (
    counted,
    mean_and_range,
    progress_bars,
    seeds_and_threads,
    short_names,
    torch_threads,
    write_csv,
)
from yfkernels.lab.minima.figures import draw_curvature, draw_layers, draw_minima
from yfkernels.lab.minima.study import Plan, Row, pair
from yfkernels.lab.parts import Parts
from yfkernels.lab.recipes import Recipe
from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.large_batch import tuned_lr

NAME = "sharpness"
RANKED = {"keskar": "Keskar's", "adaptive": "adaptive", "lambda_max": "lambda_max"}

Tables = dict[str, list[Row]]


def run_minima(
    task: ExamplesTask,
    recipes: Sequence[Recipe],
    plan: Plan,
    *,
    seeds: int,
    threads: int,
    folder: Path,
    resume: bool,
) -> None:
    """Trains every optimizer with a small and a large batch and measures what came out.

    Args:
        task: what to train on.
        recipes: what to compare; each is tuned at the small batch.
        plan: what is trained and measured.
        seeds: pairs of trainings for each.
        threads: CPU threads for torch.
        folder: an existing folder for the files.
        resume: go on with what the folder has.

    Raises:
        OptionError: a resumed run had other options.
    """
    console = Console()
    named = [f"{recipe.label} ({recipe.setting})" for recipe in recipes]
    options = {"title": task.title, "optimizers": named, **asdict(plan)}
    parts = Parts(folder / f"{NAME}.jsonl", options, resume=resume)
    names = short_names(recipes)
    tables: Tables = {}
    with torch_threads(threads), progress_bars(console) as progress:
        for recipe, key in zip(recipes, named):
            bar = progress.add_task(names[recipe], total=seeds, latest="tuning lr")
            if (key, "lr") not in parts:
                small = task.with_batch_size(plan.batch_sizes[0])
                parts.add((key, "lr"), tuned_lr(small, recipe, epochs=plan.epochs))
            tuned = recipe.with_options(lr=parts[key, "lr"])
            for seed in range(seeds):
                progress.update(bar, latest=f"lr {parts[key, 'lr']:.3g}, seed {seed}")
                if (key, seed) not in parts:
                    found: Tables = {}
                    for table, rows in pair(task, tuned, seed, plan):
                        found.setdefault(table, []).extend(rows)
                    parts.add((key, seed), found)
                for table, rows in parts[key, seed].items():
                    origin = {"optimizer": names[recipe], "setting": tuned.setting, "seed": seed}
                    tables.setdefault(table, []).extend({**origin, **row} for row in rows)
                progress.advance(bar)
    conditions = (
        f"{task.conditions.partition(', batch')[0]}; batch {plan.batch_sizes[0]} or "
        f"{plan.batch_sizes[1]}, {counted(plan.epochs, 'epoch')}; sharpness on {plan.examples} "
        f"training examples; {seeds_and_threads(range(seeds), threads)}"
    )
    console.print(_table(tables["ends"], conditions))
    for line in rank_correlations(tables["ends"]):
        console.print(line)
    _write(tables, folder, f"{task.title}: {conditions}", console)


def _table(ends: Sequence[Row], conditions: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="Gap: test loss less training loss. Lowest: of the test loss on the way. "
        f"Mean and range over the seeds. {conditions}.",
        caption_justify="left",
    )
    table.add_column("Optimizer")
    columns = {
        "Batch": lambda rows: str(rows[0]["batch_size"]),
        "lr": lambda rows: f"{rows[0]['lr']:.3g}",
        "Test\naccuracy": lambda rows: _both(rows, "test_accuracy", ".1%"),
        "Training\nloss": lambda rows: _both(rows, "train_loss", ".2g"),
        "Gap": lambda rows: f"{fmean(r['test_loss'] - r['train_loss'] for r in rows):.2g}",
        "Test loss\n(lowest)": lambda rows: (
            f"{fmean(r['test_loss'] for r in rows):.3g} "
            f"({fmean(r['lowest_test_loss'] for r in rows):.3g})"
        ),
        "Keskar's": lambda rows: _both(rows, "keskar", ".2g"),
        "Adaptive": lambda rows: _both(rows, "adaptive", ".2g"),
        "lambda_max": lambda rows: _both(rows, "lambda_max", ".2g"),
    }
    for header in columns:
        table.add_column(header, justify="right")
    for optimizer, of_one in groupby(ends, lambda row: row["optimizer"]):
        rows = sorted(of_one, key=lambda row: row["batch_size"])
        for _, same in groupby(rows, lambda row: row["batch_size"]):
            group = list(same)
            table.add_row(optimizer, *(cell(group) for cell in columns.values()))
        table.add_section()
    return table


def _both(rows: Sequence[Row], name: str, form: str) -> str:
    return mean_and_range([row[name] for row in rows], form)


def rank_correlations(ends: Sequence[Row]) -> list[str]:
    """Kendall's tau of each measure with the test loss and the gap, over all trainings."""
    lines = []
    for name, words in RANKED.items():
        measure = [row[name] for row in ends]
        losses = [row["test_loss"] for row in ends]
        gaps = [row["test_loss"] - row["train_loss"] for row in ends]
        with_loss, with_gap = (kendalltau(measure, each).statistic for each in (losses, gaps))
        lines.append(
            f"Rank correlation of {words} with the test loss {with_loss:+.2f}, "
            f"with the gap {with_gap:+.2f}"
        )
    return lines


def _write(tables: Tables, folder: Path, note: str, console: Console) -> None:
    figures = {
        NAME: draw_minima(tables["ends"], tables["course"], tables["line"], note),
        f"{NAME}-layers": draw_layers(tables["layers"], note),
        f"{NAME}-curvature": draw_curvature(tables["course"], note),
    }
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png")
            console.print(f"Figure: {folder / name}.png", soft_wrap=True)
    for name, rows in tables.items():
        if rows:
            write_csv(folder / f"{NAME}-{name}.csv", rows)
            console.print(f"Numbers: {folder / NAME}-{name}.csv", soft_wrap=True)
