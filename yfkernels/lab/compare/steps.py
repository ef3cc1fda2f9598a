"""Optimizers side by side over the steps of a training: `yfkernels demo`, `yfkernels compare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from yfkernels.lab.averaging import Averaging
from yfkernels.lab.console import (
    MEAN_AND_RANGE,
    counted,
    full_name,
    mean_and_range,
    progress_bars,
    seeds_and_threads,
    short_names,
    tell_files,
    torch_threads,
    write_csv,
)
from yfkernels.lab.plots import mean_of, plot_comparison
from yfkernels.lab.recipes import Recipe
from yfkernels.lab.recorder import Recorder
from yfkernels.lab.workloads.training import Task, train

TARGET_LOSS = 0.1
SMOOTHING = 25  # steps in the trailing mean of the loss
EVALUATIONS = 20  # measurements of the test accuracy in the course of a training
COLUMNS = (
    *("loss", "test_accuracy", "averaged_accuracy", "lr", "momentum"),
    *("optimizer_seconds", "step_seconds"),
)


def run_comparison(
    task: Task,
    recipes: Sequence[Recipe],
    *,
    steps: int,
    seeds: Sequence[int],
    threads: int,
    folder: Path,
    name: str,
    explain: bool = False,
) -> None:
    """Trains with each recipe and each seed; writes ``NAME.png`` and ``NAME.csv``.

    Args:
        task: what to train.
        recipes: what to compare, in the order of the table.
        steps: training steps for each.
        seeds: of the weights and the batch order, the same for each recipe.
        threads: CPU threads for torch.
        folder: an existing folder for the files.
        name: of the files.
        explain: print why the last steps of this package's optimizers were what they were.
    """
    console = Console()
    conditions = f"{task.conditions}, {seeds_and_threads(seeds, threads)}"
    names = short_names(recipes)
    courses: dict[Recipe, list[Recorder]] = {}
    explanations: list[str] = []
    with torch_threads(threads), progress_bars(console) as progress:
        for recipe in recipes:
            bar = progress.add_task(names[recipe], total=steps * len(seeds), latest="")
            courses[recipe], optimizer = _courses(
                task, recipe, steps=steps, seeds=seeds, progress=progress, bar=bar
            )
            if explain and hasattr(optimizer, "explain"):
                explanations.append(optimizer.explain())
    smoothing = min(SMOOTHING, steps)
    console.print(_table(courses, conditions, smoothing))
    for explanation in explanations:
        console.print(explanation, "", sep="\n", highlight=False, markup=False, soft_wrap=True)
    figure = plot_comparison(
        {full_name(recipe): recorders for recipe, recorders in courses.items()},
        title=task.title,
        note=f"{conditions}{MEAN_AND_RANGE if len(seeds) > 1 else ''}",
        smoothing=smoothing,
    )
    figure.savefig(folder / f"{name}.png")
    write_csv(folder / f"{name}.csv", _course_rows(courses, seeds))
    tell_files(console, folder, name)


def _courses(
    task: Task,
    recipe: Recipe,
    *,
    steps: int,
    seeds: Sequence[int],
    progress: Progress,
    bar: TaskID,
) -> tuple[list[Recorder], torch.optim.Optimizer]:
    """Trains with one optimizer, once for each seed: what every step recorded; the last one."""
    evaluate_every = max(1, steps // EVALUATIONS)
    recorders = []
    for seed in seeds:
        recorder = Recorder()
        model = task.model(seed)
        optimizer = recipe.build(model)
        averaging = Averaging(task, model, optimizer, seed=seed)
        for record in train(task, model, optimizer, steps=steps, seed=seed):
            recorder.record(
                record.step,
                {
                    "loss": record.loss,
                    "optimizer_seconds": record.optimizer_seconds,
                    "step_seconds": record.step_seconds,
                    **_hyperparameters(optimizer),
                },
            )
            progress.advance(bar)
            averaging.follow()
            if record.step % evaluate_every == 0 or record.step == steps:
                accuracy = task.evaluate(model).accuracy
                with averaging.model() as averaged:
                    of_average = task.evaluate(averaged).accuracy
                accuracies = {"test_accuracy": accuracy, "averaged_accuracy": of_average}
                recorder.record(record.step, accuracies)
                loss = recorder["loss"].values[-SMOOTHING:].mean()
                latest = f"loss {loss:.2g}, test accuracy {accuracy:.1%}"
                progress.update(bar, latest=latest)
        recorders.append(recorder)
    return recorders, optimizer


def _hyperparameters(optimizer: torch.optim.Optimizer) -> Mapping[str, float]:
    """The lr and momentum that are set, and over them what a tuner saw and decided."""
    group = optimizer.param_groups[0]
    fixed = {name: float(group[name]) for name in ("lr", "momentum") if name in group}
    return {**fixed, **(optimizer.diagnostics() if hasattr(optimizer, "diagnostics") else {})}


def _table(courses: Mapping[Recipe, Sequence[Recorder]], conditions: str, smoothing: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="Test accuracy: after the last step. Of mean: of the weights' mean over the last "
        f"ninth of the steps, if it were used. Losses: mean of the last "
        f"{counted(smoothing, 'step')}. "
        "Update time: median of optimizer.step(); torch's optimizers run as its fused kernels. "
        f"{conditions}.",
        caption_justify="left",
    )
    table.add_column("Optimizer")
    table.add_column("Setting")
    for header in (
        "Test\naccuracy",
        "of\nmean",
        f"Steps to\nloss {TARGET_LOSS:g}",
        "Final\nloss",
        "Update\ntime",
        "Total\ntime",
    ):
        table.add_column(header, justify="right")
    for recipe, recorders in courses.items():
        loss = mean_of([recorder["loss"] for recorder in recorders]).smoothed(smoothing)
        steps_to_target = loss.first_step_at_most(TARGET_LOSS)
        updates = np.concatenate([recorder["optimizer_seconds"].values for recorder in recorders])
        table.add_row(
            recipe.label,
            recipe.setting,
            mean_and_range([r["test_accuracy"].values[-1] for r in recorders], ".1%"),
            f"{fmean(r['averaged_accuracy'].values[-1] for r in recorders):.1%}",
            "not reached" if steps_to_target is None else str(steps_to_target),
            f"{loss.values[-1]:.2g}",
            f"{median(updates) * 1e6:.0f} µs",
            f"{sum(recorder['step_seconds'].values.sum() for recorder in recorders):.1f} s",
        )
    return table


def _course_rows(
    courses: Mapping[Recipe, Sequence[Recorder]], seeds: Sequence[int]
) -> Iterator[dict[str, object]]:
    """One row a step; empty where a value was not recorded at that step."""
    for recipe, recorders in courses.items():
        for seed, recorder in zip(seeds, recorders, strict=True):
            series = {
                name: dict(zip(recorder[name].steps, recorder[name].values, strict=True))
                for name in COLUMNS
                if name in recorder
            }
            for step in recorder["loss"].steps:
                yield {
                    "optimizer": recipe.label,
                    "setting": recipe.setting,
                    "seed": seed,
                    "step": step,
                    **{name: series.get(name, {}).get(step, "") for name in COLUMNS},
                }
