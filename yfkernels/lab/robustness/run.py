"""The loop of `yfkernels robustness`, which can be stopped at any time and loses one training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from yfkernels.lab.console import progress_bars, torch_threads
from yfkernels.lab.interruption import interruption
from yfkernels.lab.robustness.options import Options
from yfkernels.lab.robustness.report import NAME, report
from yfkernels.lab.robustness.sweeps import Sweep, sweep, trainings_of
from yfkernels.lab.robustness.trainings import Job, Outcome, Stopped, Trainings, read


def load(folder: Path) -> dict[Job, Outcome]:
    """The trainings that a run in a folder has finished.

    Raises:
        FileNotFoundError: there is none.
        ValueError: its file cannot be read.
    """
    return read(folder / f"{NAME}.csv")


def run(options: Options, folder: Path, done: Mapping[Job, Outcome]) -> bool:
    """Trains what is not done, or until Ctrl-C; writes CSV and figures, prints tables.

    Args:
        options: what to measure.
        folder: an existing folder for the files.
        done: what `load` has found, to go on from there; empty to begin.

    Returns:
        Whether it came to the end.
    """
    console = Console()
    sweeps: list[Sweep] = []
    wanted = [(name, optimizer) for name in options.workloads for optimizer in options.optimizers]
    with (
        torch_threads(options.threads),
        progress_bars(console) as progress,
        interruption() as asked,
    ):
        trainings = Trainings(folder / f"{NAME}.csv", asked, done)
        for workload, optimizer in wanted:
            try:
                sweeps.append(_sweep(trainings, options, workload, optimizer, progress))
            except Stopped:
                break
    report(sweeps, options, folder, console)
    return len(sweeps) == len(wanted)


def _sweep(
    trainings: Trainings, options: Options, workload: str, optimizer: str, progress: Progress
) -> Sweep:
    """One of them, with its bar."""
    bar = progress.add_task(
        f"{workload}, {optimizer}", total=trainings_of(optimizer, options.seeds), latest=""
    )
    taken: set[Job] = set()

    def outcome(job: Job) -> Outcome:
        found = trainings.outcome(job)
        taken.add(job)
        progress.update(bar, completed=len(taken), latest=f"lr {job.lr:g}, loss {found.loss:.2g}")
        return found

    steps = options.steps_of(workload)
    measured = sweep(outcome, workload, steps, optimizer, seeds=options.seeds)
    progress.update(bar, total=len(taken))  # fewer wrong momenta than there might have been
    return measured
