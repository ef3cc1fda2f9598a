"""The command: run what is missing, report what is there.

python -m bench.convergence.asynchronous run --jobs 2 --minutes 60
python -m bench.convergence.asynchronous report
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from bench.common import trainings
from bench.convergence.asynchronous import training
from bench.convergence.asynchronous.training import Cell, Outcome

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
STORED = Path(__file__).resolve().parents[2] / "results" / "asynchronous"
FILE = "trainings.jsonl"

Out = Annotated[Path, typer.Option(help="Folder of the results.")]


@app.command()
def run(
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    only: Annotated[str, typer.Option(help="Pattern for task/arrangement/contestant.")] = "*",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 2,
    minutes: Annotated[float, typer.Option(help="After so many none is started.")] = math.inf,
    out: Out = STORED,
) -> None:
    """Train what is not stored yet: the grid with one seed, then the best of it with others.

    May be stopped at any time, and goes on where it was.
    """
    end = monotonic() + 60.0 * minutes

    def stored() -> dict[Cell, Outcome]:
        return dict(trainings.read(out / FILE, Cell, Outcome))

    def train(title: str, cells: Iterable[Cell]) -> None:
        wanted = (
            cell
            for cell in cells
            if fnmatch.fnmatch(f"{cell.task}/{cell.arrangement}/{cell.contestant}", only)
        )
        left = (end - monotonic()) / 60.0
        kinds = (Cell, Outcome)
        trainings.train(
            out / FILE, training.run, wanted, kinds, title=title, jobs=jobs, minutes=left
        )

    train("Large learning rates", training.generalizing(seeds))
    train("Grid", training.grid())
    if all(cell in stored() for cell in training.grid()):
        train("Other seeds", training.repeated(stored(), seeds))


@app.command()
def report(out: Out = STORED) -> None:
    """Write the tables and pictures of what is stored."""
    from bench.convergence.asynchronous.report import write  # here: what it loads takes seconds

    for path in write(dict(trainings.read(out / FILE, Cell, Outcome)), out):
        print(f"Written: {path}")
