"""`yfkernels large-batch --sharpness`: trains, measures, keeps what is done, writes, draws."""

from __future__ import annotations

import re
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
    progress_bars,
    seeds_and_threads,
    short_names,
    small_lrs_are_meant,
    torch_threads,
    write_csv,
)
from yfkernels.lab.minima.figures import draw_curvature, draw_layers, draw_minima
from yfkernels.lab.minima.study import Plan, Row, Tables, pair
from yfkernels.lab.parts import Parts
from yfkernels.lab.recipes import Recipe
from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.large_batch import tuned_lr

NAME = "sharpness"
RANKED = {"keskar": "Keskar's", "adaptive": "adaptive", "lambda_max": "lambda_max"}
FEWEST = 6  # trainings that a rank correlation says something of


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
        recipes: what to compare. The learning rate of each is tuned for both batches: by rule,
            those of SGD and AdamW for the large one often do not train at all.
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
    with torch_threads(threads), small_lrs_are_meant(), progress_bars(console) as progress:
        for recipe, key in zip(recipes, named):
            bar = progress.add_task(names[recipe], total=seeds, latest="tuning lr")
            if (key, "lr") not in parts:
                parts.add((key, "lr"), _tuned_lrs(task, recipe, plan))
            lrs = parts[key, "lr"]
            for seed in range(seeds):
                progress.update(bar, latest=f"seed {seed}, lr {' and '.join(map(_short, lrs))}")
                if (key, seed) not in parts:
                    parts.add((key, seed), pair(task, recipe, lrs, seed, plan))
                for table, rows in parts[key, seed].items():
                    origin = {"optimizer": names[recipe], "seed": seed}
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


def _tuned_lrs(task: ExamplesTask, recipe: Recipe, plan: Plan) -> list[float]:
    """For the small batch, and for the large one in a search that starts from it."""
    lrs: list[float] = []
    for batch_size in plan.batch_sizes:
        start = recipe.with_options(lr=lrs[-1]) if lrs else recipe
        lrs.append(tuned_lr(task.with_batch_size(batch_size), start, epochs=plan.epochs))
    return lrs


def _table(ends: Sequence[Row], conditions: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="lr: tuned on held-out training data. Lowest: of the test loss on the way. "
        f"Eigenvalue: the largest of the Hessian. Means over the seeds. {conditions}.",
        caption_justify="left",
    )
    columns = {
        "Optimizer": lambda rows: rows[0]["optimizer"],
        "Batch": lambda rows: str(rows[0]["batch_size"]),
        "lr": lambda rows: _short(rows[0]["lr"]),
        "Test\nacc.": lambda rows: f"{_mean(rows, 'test_accuracy'):.1%}",
        "Train\nloss": lambda rows: _short(_mean(rows, "train_loss")),
        "Test\nloss": lambda rows: _short(_mean(rows, "test_loss")),
        "Low-\nest": lambda rows: _short(_mean(rows, "lowest_test_loss")),
        "Kes-\nkar's": lambda rows: _short(_mean(rows, "keskar")),
        "Adap-\ntive": lambda rows: _short(_mean(rows, "adaptive")),
        "Eigen-\nvalue": lambda rows: _short(_mean(rows, "lambda_max")),
    }
    for header in columns:
        left = header == "Optimizer"
        table.add_column(header, justify="left" if left else "right", no_wrap=not left)
    for _, of_one in groupby(ends, lambda row: row["optimizer"]):
        rows = sorted(of_one, key=lambda row: row["batch_size"])
        for _, same in groupby(rows, lambda row: row["batch_size"]):
            group = list(same)
            table.add_row(*(cell(group) for cell in columns.values()))
        table.add_section()
    return table


def _mean(rows: Sequence[Row], name: str) -> float:
    return fmean(row[name] for row in rows)


def _short(value: float) -> str:
    """Two digits in at most six characters, such as 3.1e-4."""
    text = f"{value:.1e}" if 0.0 < abs(value) < 1e-3 or abs(value) >= 1e3 else f"{value:.2g}"
    return re.sub(r"e([+-])0*", lambda exponent: f"e{exponent[1].strip('+')}", text)


def rank_correlations(ends: Sequence[Row]) -> list[str]:
    """Kendall's tau of each measure with losses and their gap; none over a few trainings."""
    if len(ends) < FEWEST:
        return []
    lines = [f"Rank correlation over {len(ends)} trainings, with training loss, test loss, gap:"]
    for name, words in RANKED.items():
        measure = [row[name] for row in ends]
        training, test = ([row[f"{part}_loss"] for row in ends] for part in ("train", "test"))
        gaps = [b - a for a, b in zip(training, test)]
        taus = (kendalltau(measure, each).statistic for each in (training, test, gaps))
        lines.append(f"  {words:<10} " + ", ".join(f"{tau:+.2f}" for tau in taus))
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
