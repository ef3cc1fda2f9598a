"""Optimizers side by side: in the course of one training, and over batch sizes.

What `yfkernels demo`, `yfkernels compare` and `yfkernels large-batch` do: train, print a table,
write every number as CSV and draw a figure.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from yfkernels.lab.plots import mean_of, plot_batch_sizes, plot_comparison
from yfkernels.lab.recorder import Recorder
from yfkernels.lab.workloads.contenders import Contender, in_words
from yfkernels.lab.workloads.large_batch import Outcome, sweep, tuned_lr
from yfkernels.lab.workloads.training import Task, train

TARGET_LOSS = 0.1
SMOOTHING = 25  # steps in the trailing mean of the loss
EVALUATIONS = 20  # measurements of the test accuracy in the course of a training
COLUMNS = ("loss", "test_accuracy", "lr", "momentum", "optimizer_seconds", "step_seconds")
MEAN_AND_RANGE = " (lines: mean, bands: range)"
RULES = {0.0: "constant", 0.5: "growing as √batch", 1.0: "growing as batch"}  # by batch_exponent


def run_comparison(
    task: Task,
    contenders: Sequence[Contender],
    *,
    steps: int,
    seeds: Sequence[int],
    threads: int,
    folder: Path,
    name: str,
) -> None:
    """Trains with each contender and each seed; writes ``NAME.png`` and ``NAME.csv``.

    Args:
        task: what to train.
        contenders: what to compare, in the order of the table.
        steps: training steps for each.
        seeds: of the weights and the batch order, the same for each contender.
        threads: CPU threads for torch.
        folder: an existing folder for the files.
        name: of the files.
    """
    console = Console()
    conditions = f"{task.conditions}, {_conditions(seeds, threads)}"
    names = _short_names(contenders)
    courses: dict[Contender, list[Recorder]] = {}
    with _threads(threads), _progress(console) as progress:
        for contender in contenders:
            bar = progress.add_task(names[contender], total=steps * len(seeds), latest="")
            courses[contender] = _courses(
                task, contender, steps=steps, seeds=seeds, progress=progress, bar=bar
            )
    smoothing = min(SMOOTHING, steps)
    console.print(_table(courses, conditions, smoothing))
    figure = plot_comparison(
        {_name(contender): recorders for contender, recorders in courses.items()},
        title=task.title,
        note=f"{conditions}{MEAN_AND_RANGE if len(seeds) > 1 else ''}",
        smoothing=smoothing,
    )
    figure.savefig(folder / f"{name}.png")
    _write_csv(folder / f"{name}.csv", _course_rows(courses, seeds))
    _tell_files(console, folder, name)


def run_large_batch(
    task: Task,
    contenders: Sequence[Contender],
    *,
    batch_sizes: Sequence[int],
    epochs: int,
    seeds: Sequence[int],
    threads: int,
    folder: Path,
) -> None:
    """Trains at every batch size; writes ``large-batch.png`` and ``large-batch.csv``.

    Args:
        task: what to train.
        contenders: what to compare; each is tuned at the first batch size.
        batch_sizes: examples a step, increasing.
        epochs: passes over the training examples, the same at every batch size.
        seeds: of the weights and the batch order, the same for each contender.
        threads: CPU threads for torch.
        folder: an existing folder for the files.
    """
    console = Console()
    smallest = task.with_batch_size(batch_sizes[0])
    names = _short_names(contenders)
    outcomes: dict[Contender, list[Outcome]] = {}
    with _threads(threads), _progress(console) as progress:
        for contender in contenders:
            total = len(batch_sizes) * len(seeds)
            bar = progress.add_task(names[contender], total=total, latest="tuning lr")
            tuned = contender.with_options(lr=tuned_lr(smallest, contender, epochs=epochs))
            outcomes[contender] = []
            for outcome in sweep(task, tuned, batch_sizes=batch_sizes, epochs=epochs, seeds=seeds):
                outcomes[contender].append(outcome)
                latest = f"batch {outcome.batch_size}, test accuracy {outcome.test_accuracy:.1%}"
                progress.update(bar, advance=1, latest=latest)

    conditions = f"{_count(epochs, 'epoch')} at every batch size, {_conditions(seeds, threads)}"
    console.print(_batch_table(outcomes, conditions))
    any_given = any("lr" in contender.given for contender in contenders)
    start = ", the search starting from the one given" if any_given else ""
    search = f"lr: tuned at batch {batch_sizes[0]}{start}, else by rule"
    figure = plot_batch_sizes(
        {
            _ruled_name(contender, results[0].lr): _by_batch_size(results)
            for contender, results in outcomes.items()
        },
        title=task.title,
        note=f"{search}; {conditions}{MEAN_AND_RANGE}",
    )
    figure.savefig(folder / "large-batch.png")
    rows = [
        {
            "optimizer": contender.label,
            "setting": contender.with_options(lr=results[0].lr).setting,
            **asdict(outcome),
        }
        for contender, results in outcomes.items()
        for outcome in results
    ]
    _write_csv(folder / "large-batch.csv", rows)
    _tell_files(console, folder, "large-batch")


# ---- shared by both


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Runs torch on so many CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[latest]}"),
        console=console,
    )


def _name(contender: Contender) -> str:
    return f"{contender.label} ({contender.setting})"


def _short_names(contenders: Sequence[Contender]) -> dict[Contender, str]:
    """The label alone where it tells a contender from the others."""
    labels = [contender.label for contender in contenders]
    return {one: one.label if labels.count(one.label) == 1 else _name(one) for one in contenders}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _conditions(seeds: Sequence[int], threads: int) -> str:
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{seed}, {_count(threads, 'CPU thread')}, torch {torch.__version__}"


def _write_csv(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _tell_files(console: Console, folder: Path, name: str) -> None:
    console.print(f"Figure: {folder / name}.png", soft_wrap=True)
    console.print(f"Numbers: {folder / name}.csv", soft_wrap=True)


def _mean_and_range(values: Sequence[float], form: str) -> str:
    """The mean, and behind it the lowest and the highest of several values."""
    mean = format(fmean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({format(min(values), form)}–{format(max(values), form)})"


# ---- the course of a training


def _courses(
    task: Task,
    contender: Contender,
    *,
    steps: int,
    seeds: Sequence[int],
    progress: Progress,
    bar: TaskID,
) -> list[Recorder]:
    """Trains with one optimizer, once for each seed, and records every step."""
    evaluate_every = max(1, steps // EVALUATIONS)
    recorders = []
    for seed in seeds:
        recorder = Recorder()
        model = task.model(seed)
        optimizer = contender.build(model)
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
            if record.step % evaluate_every == 0 or record.step == steps:
                accuracy = task.evaluate(model).accuracy
                recorder.record(record.step, {"test_accuracy": accuracy})
                loss = recorder["loss"].values[-SMOOTHING:].mean()
                latest = f"loss {loss:.2g}, test accuracy {accuracy:.1%}"
                progress.update(bar, latest=latest)
        recorders.append(recorder)
    return recorders


def _hyperparameters(optimizer: torch.optim.Optimizer) -> Mapping[str, float]:
    """The lr and momentum that are set, and over them what a tuner saw and decided."""
    group = optimizer.param_groups[0]
    fixed = {name: float(group[name]) for name in ("lr", "momentum") if name in group}
    return {**fixed, **(optimizer.diagnostics() if hasattr(optimizer, "diagnostics") else {})}


def _table(
    courses: Mapping[Contender, Sequence[Recorder]], conditions: str, smoothing: int
) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=f"Test accuracy: after the last step. Losses: mean of the last "
        f"{_count(smoothing, 'step')}. "
        "Update time: median of optimizer.step(); torch's optimizers run as its fused kernels. "
        f"{conditions}.",
        caption_justify="left",
    )
    table.add_column("Optimizer")
    table.add_column("Setting")
    for header in (
        "Test\naccuracy",
        f"Steps to\nloss {TARGET_LOSS:g}",
        "Final\nloss",
        "Update\ntime",
        "Total\ntime",
    ):
        table.add_column(header, justify="right")
    for contender, recorders in courses.items():
        loss = mean_of([recorder["loss"] for recorder in recorders]).smoothed(smoothing)
        steps_to_target = loss.first_step_at_most(TARGET_LOSS)
        updates = np.concatenate([recorder["optimizer_seconds"].values for recorder in recorders])
        table.add_row(
            contender.label,
            contender.setting,
            _mean_and_range([r["test_accuracy"].values[-1] for r in recorders], ".1%"),
            "not reached" if steps_to_target is None else str(steps_to_target),
            f"{loss.values[-1]:.2g}",
            f"{median(updates) * 1e6:.0f} µs",
            f"{sum(recorder['step_seconds'].values.sum() for recorder in recorders):.1f} s",
        )
    return table


def _course_rows(
    courses: Mapping[Contender, Sequence[Recorder]], seeds: Sequence[int]
) -> Iterator[dict[str, object]]:
    """One row a step; empty where a value was not recorded at that step."""
    for contender, recorders in courses.items():
        for seed, recorder in zip(seeds, recorders, strict=True):
            series = {
                name: dict(zip(recorder[name].steps, recorder[name].values, strict=True))
                for name in COLUMNS
                if name in recorder
            }
            for step in recorder["loss"].steps:
                yield {
                    "optimizer": contender.label,
                    "setting": contender.setting,
                    "seed": seed,
                    "step": step,
                    **{name: series.get(name, {}).get(step, "") for name in COLUMNS},
                }


# ---- over batch sizes


def _ruled_name(contender: Contender, tuned_lr: float) -> str:
    """The lr at the first batch size, where its search started, the rule, what else is given."""
    others = dict(contender.given)
    start = f" from {others.pop('lr')}" if "lr" in others else ""
    more = f", {in_words(others)}" if others else ""
    rule = RULES[contender.batch_exponent]
    return f"{contender.label} (lr {tuned_lr:.3g}{start}, {rule}{more})"


def _by_batch_size(outcomes: Iterable[Outcome]) -> dict[int, list[Outcome]]:
    sizes: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        sizes.setdefault(outcome.batch_size, []).append(outcome)
    return sizes


def _batch_table(outcomes: Mapping[Contender, Sequence[Outcome]], conditions: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="lr: tuned on held-out training data at the first batch size, the search starting "
        "from the setting's; at the others by rule. "
        f"Mean and range over the seeds. {conditions}.",
        caption_justify="left",
    )
    table.add_column("Optimizer")
    table.add_column("Setting")
    for header in ("Batch", "Steps", "lr", "Test accuracy", "Training loss"):
        table.add_column(header, justify="right")
    for contender, results in outcomes.items():
        for batch_size, same in _by_batch_size(results).items():
            table.add_row(
                contender.label,
                contender.setting,
                str(batch_size),
                str(same[0].steps),
                f"{same[0].lr:.3g}",
                _mean_and_range([outcome.test_accuracy for outcome in same], ".1%"),
                _mean_and_range([outcome.train_loss for outcome in same], ".2g"),
            )
        table.add_section()
    return table
