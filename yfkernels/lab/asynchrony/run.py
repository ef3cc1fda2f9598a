"""One run of `yfkernels async`, from its first push or its checkpoint to its report."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import Progress

from yfkernels._saving import load_plain
from yfkernels.asynchronous import Record
from yfkernels.lab.asynchrony import actors, processes
from yfkernels.lab.asynchrony.report import report
from yfkernels.lab.asynchrony.simulated import simulate
from yfkernels.lab.asynchrony.training import Training
from yfkernels.lab.console import progress_bars, torch_threads
from yfkernels.lab.options import check_same

_CHECKPOINT = "checkpoint.pt"
_SHOWN = 25  # pushes that the numbers beside the bar are means of


def load(training: Training, folder: Path) -> dict[str, Any]:
    """The checkpoint in a folder, of a run with the same options.

    Raises:
        FileNotFoundError: there is none.
        OptionError: it is of a run with others.
        ValueError: it cannot be read.
    """
    state = load_plain(folder / _CHECKPOINT, "remove it, or leave --resume out")
    check_same(asdict(training.options), state["also"]["training"]["options"])
    return state


def run(
    training: Training, folder: Path, state: dict[str, Any] | None, *, address: str | None = None
) -> bool:
    """Trains to the end, or until Ctrl-C; writes checkpoint, CSV and figure, prints a table.

    Over gloo this is what the server does.

    Args:
        training: new.
        folder: an existing folder for the files.
        state: the checkpoint to go on from; None to begin.
        address: of a Ray cluster.

    Returns:
        Whether it came to the end.

    Raises:
        RuntimeError: all workers were lost before.
        ConnectionError: the server of Ray's was.
    """
    console, file = Console(), folder / _CHECKPOINT
    options = training.options
    workers = {} if state is None else _restore(training, state)
    if not training.finished:
        with torch_threads(options.threads), progress_bars(console) as progress:
            bar = _Bar(progress, training)
            if options.engine == "simulator":
                simulate(training, file, bar.show, state)
            elif options.engine == "gloo":
                service = processes.service_of(training, file, bar.show)
                if state is not None:
                    service.resume()
                processes.serve(service)
                workers = {name: counts.state_dict() for name, counts in service.workers.items()}
            else:
                actors.train(options, file, bar.show, resume=state is not None, address=address)
                workers = _restore(training, load(training, folder))
            bar.end()
    report(training, workers, folder, console)
    return training.finished


def _restore(training: Training, state: dict[str, Any]) -> dict[str, Any]:
    """Puts a training where its checkpoint has it; returns the counts of its workers."""
    training.server.load_state_dict(state["server"])
    training.load_state_dict(state["also"]["training"])
    counts: dict[str, Any] = state["workers"]
    return counts


class _Bar:
    """The progress of a run: applied pushes, and the latest losses and stalenesses."""

    def __init__(self, progress: Progress, training: Training) -> None:
        self._progress = progress
        self._training = training
        self._latest: deque[Record] = deque(maxlen=_SHOWN)
        self._task = progress.add_task(
            training.options.engine,
            total=training.total_pushes,
            completed=training.server.version.number,
            latest="",
        )

    def show(self, record: Record) -> None:
        """Takes a push in."""
        self._latest.append(record)
        loss = fmean(each.loss for each in self._latest)
        staleness = fmean(each.staleness for each in self._latest)
        self._progress.update(
            self._task, completed=record.step, latest=f"loss {loss:.2g}, staleness {staleness:.1f}"
        )

    def end(self) -> None:
        """Shows where it has ended."""
        self._progress.update(self._task, completed=self._training.server.version.number)
