"""What a tuning run shows: the text beside its bar, the closing table, the files."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from yfkernels.lab.console import counted, tell_files
from yfkernels.lab.recipes import RECIPES
from yfkernels.lab.tuning.figure import plot_tuning
from yfkernels.lab.tuning.training import Row, Training

NAME = "tune"  # of the files
LABELS = {"hd": "HD", "rtho": "RTHO", "marthe": "MARTHE"}  # the others are words already


def report(training: Training, folder: Path, console: Console) -> None:
    """Prints the table and draws the figure of what has been recorded so far."""
    epochs = [row for row in training.rows if row["train_loss"] is not None]
    options, conditions = training.options, _conditions(training)
    if epochs:
        console.print(_table(epochs, conditions))
    if training.rows:
        broken = (row["step"] for row in training.rows if not math.isfinite(row["loss"] or 0.0))
        if (step := next(broken, None)) is not None:
            console.print(
                f"Diverged: the loss is not finite at step {step}; begin with a smaller --lr.",
                style="bold red",
            )
        label = LABELS.get(options.method, options.method)
        figure = plot_tuning(
            training.rows,
            steps_per_epoch=training.steps_per_epoch,
            title=f"{training.task.title}: {label}, {RECIPES[options.optimizer].label}",
            note=conditions,
        )
        figure.savefig(folder / f"{NAME}.png")
        tell_files(console, folder, NAME)


def bar_text(row: Row) -> str:
    """An epoch in one line."""
    loss, accuracy, lr = (row[name] for name in ("train_loss", "validation_accuracy", "lr"))
    return f"loss {loss:.2g}, validation {accuracy:.1%}, lr {lr:.3g}"


def _conditions(training: Training) -> str:
    """What the numbers depend on, for people."""
    task, options = training.task, training.options
    lr = training.optimizer.defaults["lr"]
    return (
        f"{task.training_size} training, {len(task.test[1])} validation and "
        f"{len(training.tested.test[1])} test images, batch {task.batch_size}, first lr {lr:.3g}, "
        f"seed {options.seed}, {counted(options.threads, 'CPU thread')}, torch {torch.__version__}"
    )


def _table(epochs: list[Row], conditions: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="Training loss: mean over the epoch. Best: by validation accuracy, the first. The "
        f"test images decide nothing. {conditions}.",
        caption_justify="left",
    )
    table.add_column("")
    for header in (
        "Epoch",
        "Training\nloss",
        "Validation\nloss",
        "Validation\naccuracy",
        "Test\naccuracy",
        "lr",
    ):
        table.add_column(header, justify="right")
    best = max(epochs, key=lambda row: row["validation_accuracy"] or 0.0)
    for name, row in (("Best", best), ("Last", epochs[-1])):
        table.add_row(
            name,
            str(row["epoch"]),
            f"{row['train_loss']:.2g}",
            f"{row['validation_loss']:.2g}",
            f"{row['validation_accuracy']:.1%}",
            f"{row['test_accuracy']:.1%}",
            f"{row['lr']:.3g}",
        )
    return table
