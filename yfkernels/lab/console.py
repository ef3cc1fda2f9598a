"""What the commands print and write: progress, names, conditions, files."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from yfkernels.lab.recipes import Recipe

MEAN_AND_RANGE = " (lines: mean, bands: range)"


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs torch on so many CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def small_lrs_are_meant() -> Iterator[None]:
    """YellowFin, whose lr is a multiplier, warns of small ones; schedules and searches set them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"lr=\S+ is not a learning rate")
        yield


def progress_bars(console: Console) -> Progress:
    """A bar for each training, with its latest result."""
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[latest]}"),
        console=console,
    )


def full_name(recipe: Recipe) -> str:
    """Label and setting."""
    return f"{recipe.label} ({recipe.setting})"


def short_names(recipes: Sequence[Recipe]) -> dict[Recipe, str]:
    """The label alone where it tells a recipe from the others."""
    labels = [recipe.label for recipe in recipes]
    return {one: one.label if labels.count(one.label) == 1 else full_name(one) for one in recipes}


def counted(number: int, noun: str) -> str:
    """Such as "1 step", "2 steps"."""
    return f"{number} {noun}{'s' * (number > 1)}"


def seeds_and_threads(seeds: Sequence[int], threads: int) -> str:
    """What the numbers depend on besides the task."""
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{seed}, {counted(threads, 'CPU thread')}, torch {torch.__version__}"


def write_csv(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """One line a row, under the names of the first."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def tell_files(console: Console, folder: Path, name: str) -> None:
    """Print where the figure and the numbers are."""
    console.print(f"Figure: {folder / name}.png", soft_wrap=True)
    console.print(f"Numbers: {folder / name}.csv", soft_wrap=True)


def mean_and_range(values: Sequence[float], form: str) -> str:
    """The mean, followed by the lowest and the highest of several values."""
    mean = format(fmean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({format(min(values), form)}–{format(max(values), form)})"
