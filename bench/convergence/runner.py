"""Runs the missing trainings of a campaign in one-thread processes, each stored as it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from time import monotonic
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.convergence import cell as training
from bench.convergence.campaign import Campaign
from bench.convergence.cell import Cell
from bench.convergence.outside import Outside
from bench.convergence.result import Key, TrainingResult
from bench.convergence.store import Store


def run(
    campaign: Campaign,
    store: Store,
    *,
    jobs: int,
    seconds: float,
    outside: Outside,
    commit: str,
    console: Console,
) -> dict[Key, str]:
    """Runs the trainings of a campaign that are not stored.

    Args:
        campaign: what to compare.
        store: gets each training as it ends.
        jobs: trainings at a time.
        seconds: after so many no further training is started.
        outside: what the processes load.
        commit: of the checkout, for the record.
        console: shows the progress.

    Returns:
        The trainings that failed, and why.
    """
    end = monotonic() + seconds
    failed: dict[Key, str] = {}
    running: dict[Future[TrainingResult], Cell] = {}
    with _executor(jobs, outside) as executor, _progress(console) as progress:
        bar = progress.add_task("", total=None)
        try:
            while True:
                under_way = {cell.key for cell in running.values()}
                waiting = [
                    cell
                    for cell in campaign.missing(store)
                    if cell.key not in failed and cell.key not in under_way
                ]
                known = progress.tasks[0].completed + len(waiting) + len(running)
                progress.update(bar, total=known)
                room = jobs - len(running) if monotonic() < end else 0
                for cell in waiting[:room]:
                    progress.update(bar, description=_title(cell))
                    running[executor.submit(training.run, cell, commit)] = cell
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    _keep(future, running.pop(future), store, failed)
                    progress.advance(bar)
        except KeyboardInterrupt:
            console.print(f"Stopped; {len(running)} under way end first.")
            for future, cell in running.items():
                _keep(future, cell, store, failed)
    store.tidy(campaign.data)
    return failed


def _keep(future: Future[TrainingResult], cell: Cell, store: Store, failed: dict[Key, str]) -> None:
    error = future.exception()
    if error is None:
        store.add(future.result())
    else:
        failed[cell.key] = f"{type(error).__name__}: {error}"


def _title(cell: Cell) -> str:
    key = cell.key
    return f"{key.task}: {cell.contestant} ({key.setting}), seed {key.seed}"


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
    )


@contextmanager
def _executor(jobs: int, outside: Outside) -> Iterator[Executor]:
    """For one job this process, else so many fresh ones."""
    if jobs == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield _Here()
        finally:
            torch.set_num_threads(before)
        return
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(outside,)
    ) as pool:
        yield pool


def _start(outside: Outside) -> None:
    """Runs first in a new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one sees to it
    torch.set_num_threads(1)
    outside.load()


class _Here(Executor):
    """Does at once what is submitted."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # the caller's, who asks the future
            future.set_exception(error)
        return future
