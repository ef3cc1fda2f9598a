"""Many trainings: run in processes of one thread, and stored, a line of JSON each, as they end.

A kind of training has two frozen dataclasses: what determines one, and what came out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, fields
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track

from bench.common.environment import commit

DIGITS = 4  # significant
Cell = TypeVar("Cell")
Outcome = TypeVar("Outcome")


def read(path: Path, cell: type[Cell], outcome: type[Outcome]) -> Iterator[tuple[Cell, Outcome]]:
    """What is stored; a last line without its end, which a kill may leave, is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        row = {name: _number(value) for name, value in json.loads(line).items()}
        yield _made(cell, row), _made(outcome, row)


def write(path: Path, cell: Any, outcome: Any, commit: str) -> None:
    """Adds a training, in the place of a line that a kill has left without its end."""
    row = {**asdict(cell), **asdict(outcome), "commit": commit}
    line = json.dumps({name: _short(value) for name, value in row.items()}, allow_nan=False)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode() + b"\n")


def train(
    path: Path,
    run: Callable[[Any], Any],
    cells: Iterable[Any],
    kinds: tuple[type[Any], type[Any]],
    *,
    title: str = "Training",
    jobs: int,
    minutes: float = math.inf,
) -> None:
    """Trains what a file does not have yet and adds it there, each training as it ends.

    Args:
        path: the file; its folder is made.
        run: trains.
        cells: what to train.
        kinds: the two dataclasses.
        title: of the progress bar.
        jobs: processes.
        minutes: after so many no training is started.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known = dict(read(path, *kinds))
    missing = [cell for cell in cells if cell not in known]
    trained = in_processes(run, missing, jobs=jobs, minutes=minutes)
    short = (commit() or "")[:7]
    for cell, outcome in track(trained, title, total=len(missing), console=Console()):
        write(path, cell, outcome, short)


def in_processes(
    run: Callable[[Cell], Outcome], cells: Iterable[Cell], *, jobs: int, minutes: float = math.inf
) -> Iterator[tuple[Cell, Outcome]]:
    """Trainings, each as it ends.

    Args:
        run: trains.
        cells: what to train.
        jobs: processes.
        minutes: after so many none is started.
    """
    waiting, end = iter(cells), monotonic() + 60.0 * minutes
    running: dict[Future[Outcome], Cell] = {}
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        while True:
            while len(running) < jobs and monotonic() < end:
                cell = next(waiting, None)
                if cell is None:
                    break
                running[pool.submit(run, cell)] = cell
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


def _made(kind: Any, row: dict[str, Any]) -> Any:
    return kind(**{field.name: row[field.name] for field in fields(kind)})


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_number(each) for each in value)
    return math.inf if value is None else value
