"""The loop of `yfkernels tune`, which can be interrupted at any time and resumed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from yfkernels.lab.console import progress_bars, torch_threads, write_csv
from yfkernels.lab.interruption import interruption
from yfkernels.lab.options import check_same
from yfkernels.lab.tuning import checkpoint
from yfkernels.lab.tuning.report import NAME, bar_text, report
from yfkernels.lab.tuning.training import Training


def resume(training: Training, folder: Path) -> None:
    """Puts a training into the state that the checkpoint in a folder has.

    Raises:
        FileNotFoundError: there is none.
        OptionError: it is of a run with other options.
    """
    state = checkpoint.load(folder)
    check_same(asdict(training.options), state.pop("options"))
    training.load_state_dict(state)


def run(training: Training, folder: Path) -> bool:
    """Trains to the end, or until Ctrl-C; writes checkpoint, CSV and figure, prints a table.

    Args:
        training: new, or resumed.
        folder: an existing folder for the files.

    Returns:
        Whether it came to the end.
    """
    console = Console()
    if training.step == 0:
        training.begin()
        _save(training, folder)
    with (
        torch_threads(training.options.threads),
        progress_bars(console) as progress,
        interruption() as asked,
    ):
        bar = progress.add_task(
            training.options.method, total=training.total_steps, completed=training.step, latest=""
        )
        while training.step < training.total_steps and not asked():
            training.take_step()
            progress.advance(bar)
            if training.epoch_ended:
                progress.update(bar, latest=bar_text(training.rows[-1]))
                _save(training, folder)
        if not training.epoch_ended:
            _save(training, folder)
    report(training, folder, console)
    return training.step == training.total_steps


def _save(training: Training, folder: Path) -> None:
    checkpoint.save(folder, {"options": asdict(training.options), **training.state_dict()})
    if training.rows:
        write_csv(folder / f"{NAME}.csv", training.rows)
