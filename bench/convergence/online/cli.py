"""The command: run what is missing, report what is there.

python -m bench.convergence.online run --jobs 2 --minutes 60
python -m bench.convergence.online report
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track

from bench.common.environment import commit
from bench.convergence.online import store, training
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
    out.mkdir(parents=True, exist_ok=True)
    stored = {cell for cell, _ in store.read(out / FILE)}
    missing = [
        cell
        for cell in training.cells(seeds)
        if cell not in stored and fnmatch.fnmatch(f"{cell.task}/{cell.base}/{cell.method}", only)
    ]
    short = (commit() or "")[:7]
    trained = _trained(missing, jobs, monotonic() + 60.0 * minutes)
    for cell, outcome in track(trained, "Training", total=len(missing), console=Console()):
        store.write(out / FILE, cell, outcome, short)


def _trained(missing: list[Cell], jobs: int, end: float) -> Iterator[tuple[Cell, Outcome]]:
    """The trainings, each as it ends, in processes of one thread."""
    waiting = iter(missing)
    running: dict[Future[Outcome], Cell] = {}
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        while True:
            while len(running) < jobs and monotonic() < end:
                cell = next(waiting, None)
                if cell is None:
                    break
                running[pool.submit(training.run, cell)] = cell
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


@app.command()
def report(out: Out = STORED) -> None:
    """Write the tables and pictures of what is stored."""
    from bench.convergence.online.report import write  # here: what it loads takes seconds

    for path in write(dict(store.read(out / FILE)), out):
        print(f"Written: {path}")
