"""``yfkernels demo``: optimizers side by side on handwritten digits, as a table and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from yfkernels.monitor.plots import plot_comparison
from yfkernels.monitor.recorder import Recorder
from yfkernels.workloads.contenders import Contender
from yfkernels.workloads.digits import digits_conv
from yfkernels.workloads.training import Task, train

TARGET_LOSS = 0.1
SMOOTHING = 25  # steps in the trailing mean of the loss
EVALUATIONS = 20  # measurements of the test accuracy in the course of a training

# One thread is quick enough for so small a net. Where other programs hold the cores, two threads
# wait for each other at every layer: measured on a busy machine, 8 times the time of one.
THREADS = 1


def run_demo(contenders: Sequence[Contender], *, steps: int, seed: int, folder: Path) -> None:
    """Trains the conv net with each contender, prints a table and writes ``demo.png``.

    Args:
        contenders: what to compare, in the order of the table.
        steps: training steps for each.
        seed: of the weights and the batch order, the same for each.
        folder: an existing folder for the figure.
    """
    task = digits_conv()
    conditions = (
        f"{len(task.train_labels)} training and {len(task.test_labels)} test images, "
        f"batch {task.batch_size}, seed {seed}, {THREADS} CPU thread, "
        f"torch {torch.__version__}"
    )
    console = Console()
    with _threads(THREADS), _progress(console) as progress:
        recorders = {
            contender: _train(task, contender, steps=steps, seed=seed, progress=progress)
            for contender in contenders
        }
    console.print(_table(recorders, conditions))

    figure_path = folder / "demo.png"
    plot_comparison(
        {f"{contender.label} ({contender.setting})": r for contender, r in recorders.items()},
        title="Handwritten digits, small conv net with BatchNorm",
        note=conditions,
        smoothing=SMOOTHING,
    ).savefig(figure_path)
    console.print(f"Figure: {figure_path}", soft_wrap=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Runs torch on so many CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[latest]}"),
        console=console,
    )


def _train(
    task: Task, contender: Contender, *, steps: int, seed: int, progress: Progress
) -> Recorder:
    """Trains with one optimizer and records every step of it."""
    recorder = Recorder()
    model = task.model(seed)
    optimizer = contender.build(model.parameters())
    bar = progress.add_task(contender.label, total=steps, latest="")
    evaluate_every = max(1, steps // EVALUATIONS)
    for record in train(task, model, optimizer, steps=steps, seed=seed):
        recorder.record(
            record.step,
            {
                "loss": record.loss,
                "optimizer_seconds": record.optimizer_seconds,
                "step_seconds": record.step_seconds,
                **_hyperparameters(optimizer),
            },
        )
        progress.advance(bar)
        if record.step % evaluate_every == 0 or record.step == steps:
            accuracy = task.evaluate(model).accuracy
            recorder.record(record.step, {"test_accuracy": accuracy})
            progress.update(bar, latest=f"loss {record.loss:.2g}, test accuracy {accuracy:.1%}")
    return recorder


def _hyperparameters(optimizer: torch.optim.Optimizer) -> Mapping[str, float]:
    """What a tuner saw and decided, or the fixed lr and momentum of SGD.

    An adaptive optimizer's lr multiplies something else than the gradient, so it is left out.
    """
    if hasattr(optimizer, "diagnostics"):
        diagnostics: Mapping[str, float] = optimizer.diagnostics()
        return diagnostics
    group = optimizer.param_groups[0]
    return {name: group[name] for name in ("lr", "momentum")} if "momentum" in group else {}


def _table(recorders: Mapping[Contender, Recorder], conditions: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=f"Test accuracy: after the last step. Losses: mean of the last {SMOOTHING} steps. "
        "Update time: median of optimizer.step(); AdamW and SGD run as torch's fused kernels. "
        f"{conditions}.",
        caption_justify="left",
    )
    table.add_column("Optimizer")
    table.add_column("Setting")
    for header in (
        "Test\naccuracy",
        f"Steps to\nloss {TARGET_LOSS:g}",
        "Final\nloss",
        "Update\ntime",
        "Total\ntime",
    ):
        table.add_column(header, justify="right")
    for contender, recorder in recorders.items():
        loss = recorder["loss"].smoothed(SMOOTHING)
        steps_to_target = loss.first_step_at_most(TARGET_LOSS)
        table.add_row(
            contender.label,
            contender.setting,
            f"{recorder['test_accuracy'].values[-1]:.1%}",
            "not reached" if steps_to_target is None else str(steps_to_target),
            f"{loss.values[-1]:.2g}",
            f"{median(recorder['optimizer_seconds'].values) * 1e6:.0f} µs",
            f"{recorder['step_seconds'].values.sum():.1f} s",
        )
    return table
