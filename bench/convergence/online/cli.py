"""The command: run what is missing, report what is there.

python -m bench.convergence.online run --jobs 2 --minutes 60
python -m bench.convergence.online report
"""

from __future__ import annotations

import fnmatch
import math
from pathlib import Path
from typing import Annotated

import typer

from bench.common import trainings
from bench.convergence.online import training
from bench.convergence.online.training import Cell, Outcome

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
STORED = Path(__file__).resolve().parents[2] / "results" / "hypergradients"
FILE = "trainings.jsonl"

Out = Annotated[Path, typer.Option(help="Folder of the results.")]


@app.command()
def run(
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    only: Annotated[str, typer.Option(help="Pattern for task/base/method.")] = "*",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 2,
    minutes: Annotated[float, typer.Option(help="After so many none is started.")] = math.inf,
    out: Out = STORED,
) -> None:
    """Train what is not stored yet. May be stopped at any time, and goes on where it was."""
    wanted = (
        cell
        for cell in training.cells(seeds)
        if fnmatch.fnmatch(f"{cell.task}/{cell.base}/{cell.method}", only)
    )
    kinds = (Cell, Outcome)
    trainings.train(out / FILE, training.run, wanted, kinds, jobs=jobs, minutes=minutes)


@app.command()
def report(out: Out = STORED) -> None:
    """Write the tables and pictures of what is stored."""
    from bench.convergence.online.report import write  # here: what it loads takes seconds

    for path in write(dict(trainings.read(out / FILE, Cell, Outcome)), out):
        print(f"Written: {path}")
