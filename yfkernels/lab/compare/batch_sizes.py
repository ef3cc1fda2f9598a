"""Optimizers side by side over batch sizes: `yfkernels large-batch`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from yfkernels.lab.console import (
    MEAN_AND_RANGE,
    counted,
    mean_and_range,
    progress_bars,
    seeds_and_threads,
    short_names,
    small_lrs_are_meant,
    tell_files,
    torch_threads,
    write_csv,
)
from yfkernels.lab.plots import plot_batch_sizes
from yfkernels.lab.recipes import Recipe, in_words
from yfkernels.lab.workloads.large_batch import Outcome, sweep, tuned_lr
from yfkernels.lab.workloads.training import Task

RULES = {0.0: "constant", 0.5: "growing as √batch", 1.0: "growing as batch"}  # by batch_exponent


def run_large_batch(
    task: Task,
    recipes: Sequence[Recipe],
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
        recipes: what to compare; each is tuned at the first batch size.
        batch_sizes: examples a step, increasing.
        epochs: passes over the training examples, the same at every batch size.
        seeds: of the weights and the batch order, the same for each recipe.
        threads: CPU threads for torch.
        folder: an existing folder for the files.
    """
    console = Console()
    smallest = task.with_batch_size(batch_sizes[0])
    names = short_names(recipes)
    outcomes: dict[Recipe, list[Outcome]] = {}
    with torch_threads(threads), small_lrs_are_meant(), progress_bars(console) as progress:
        for recipe in recipes:
            total = len(batch_sizes) * len(seeds)
            bar = progress.add_task(names[recipe], total=total, latest="tuning lr")
            tuned = recipe.with_options(lr=tuned_lr(smallest, recipe, epochs=epochs))
            outcomes[recipe] = []
            for outcome in sweep(task, tuned, batch_sizes=batch_sizes, epochs=epochs, seeds=seeds):
                outcomes[recipe].append(outcome)
                latest = f"batch {outcome.batch_size}, test accuracy {outcome.test_accuracy:.1%}"
                progress.update(bar, advance=1, latest=latest)

    conditions = (
        f"{counted(epochs, 'epoch')} at every batch size, {seeds_and_threads(seeds, threads)}"
    )
    console.print(_batch_table(outcomes, conditions))
    any_given = any("lr" in recipe.given for recipe in recipes)
    start = ", the search starting from the one given" if any_given else ""
    search = f"lr: tuned at batch {batch_sizes[0]}{start}, else by rule"
    figure = plot_batch_sizes(
        {
            _ruled_name(recipe, results[0].lr): _by_batch_size(results)
            for recipe, results in outcomes.items()
        },
        title=task.title,
        note=f"{search}; {conditions}{MEAN_AND_RANGE}",
    )
    figure.savefig(folder / "large-batch.png")
    rows = [
        {
            "optimizer": recipe.label,
            "setting": recipe.with_options(lr=results[0].lr).setting,
            **asdict(outcome),
        }
        for recipe, results in outcomes.items()
        for outcome in results
    ]
    write_csv(folder / "large-batch.csv", rows)
    tell_files(console, folder, "large-batch")


def _ruled_name(recipe: Recipe, tuned_lr: float) -> str:
    """The lr at the first batch size, where its search started, the rule, what else is given."""
    others = dict(recipe.given)
    start = f" from {others.pop('lr')}" if "lr" in others else ""
    more = f", {in_words(others)}" if others else ""
    rule = RULES[recipe.batch_exponent]
    return f"{recipe.label} (lr {tuned_lr:.3g}{start}, {rule}{more})"


def _by_batch_size(outcomes: Iterable[Outcome]) -> dict[int, list[Outcome]]:
    sizes: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        sizes.setdefault(outcome.batch_size, []).append(outcome)
    return sizes


def _batch_table(outcomes: Mapping[Recipe, Sequence[Outcome]], conditions: str) -> Table:
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
    for recipe, results in outcomes.items():
        for batch_size, same in _by_batch_size(results).items():
            table.add_row(
                recipe.label,
                recipe.setting,
                str(batch_size),
                str(same[0].steps),
                f"{same[0].lr:.3g}",
                mean_and_range([outcome.test_accuracy for outcome in same], ".1%"),
                mean_and_range([outcome.train_loss for outcome in same], ".2g"),
            )
        table.add_section()
    return table
