"""The figure of a tuning run: losses, accuracies, and what set the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from yfkernels.lab.recorder import Series
from yfkernels.lab.style import (
    INCHES,
    PALETTE,
    STYLE,
    TITLE_FONT,
    add_note,
    blank_figure,
    log_range,
    make_log,
    make_percent,
)

COLUMNS = 6  # of the grid: one, two or three panels fill a row
TUNED = {  # panel: title
    "lr": "Learning rate",
    "mu": "mu (bold: mean over an epoch)",
    "hyper_lr": "hyper_lr, the papers' beta",
}
TRAINING, VALIDATION, TEST, TUNING = (PALETTE[place] for place in (1, 0, 2, 3))
LEGEND: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.05),
    "ncols": 3,
    "borderaxespad": 0,
    "borderpad": 0,
    "columnspacing": 1.4,
    "handlelength": 1.6,
}
MARKED = 60  # epochs up to which each has a dot
WIDE = 4.0  # ratio of the largest to the smallest value from which an axis is logarithmic

Floats = NDArray[np.float64]


def plot_tuning(
    rows: Sequence[Mapping[str, float | None]], *, steps_per_epoch: int, title: str, note: str = ""
) -> Figure:
    """Draws one run over its epochs.

    Args:
        rows: as `Training.rows`, at least one. Of lr, mu and hyper_lr those are drawn that it has.
        steps_per_epoch: number of steps that make an epoch.
        title: what was trained and how.
        note: conditions of the measurement, set small under the panels.

    Returns:
        The figure; write it with ``figure.savefig(path)``.
    """
    names = ("loss", "train_loss", "validation_loss", "validation_accuracy", "test_accuracy")
    courses = {name: _course(rows, name) for name in (*names, *TUNED)}
    shown = [name for name in TUNED if len(courses[name].steps)]
    if "hyper_lr" in shown and len(set(courses["hyper_lr"].values)) == 1:
        shown.remove("hyper_lr")  # says nothing
    with matplotlib.rc_context(STYLE):
        figure = blank_figure(INCHES)
        figure.suptitle(title, x=0.006, ha="left", fontproperties=TITLE_FONT)
        grid = figure.add_gridspec(2, COLUMNS)
        half, width = COLUMNS // 2, COLUMNS // len(shown)
        axes = _Epochs(steps_per_epoch, last=int(rows[-1]["step"] or 0))

        losses = axes.prepared(figure.add_subplot(grid[0, :half]))
        axes.draw_thin(losses, courses["loss"], TRAINING, "single batches")
        axes.draw_epochs(losses, courses["train_loss"], TRAINING, "training")
        axes.draw_epochs(losses, courses["validation_loss"], VALIDATION, "validation")
        losses.set(title="Loss", ylabel="cross entropy [nats]")
        make_log(losses, courses["loss"].values)

        accuracies = axes.prepared(figure.add_subplot(grid[0, half:]))
        axes.draw_epochs(accuracies, courses["validation_accuracy"], VALIDATION, "validation")
        axes.draw_epochs(accuracies, courses["test_accuracy"], TEST, "test")
        accuracies.set(title="Accuracy", ylabel="accuracy")
        make_percent(accuracies)

        for panel in (losses, accuracies):  # beside the title, where no line can be
            panel.legend(**LEGEND)
        for place, name in enumerate(shown):
            panel = figure.add_subplot(grid[1, place * width : (place + 1) * width])
            axes.prepared(panel).set(title=TUNED[name], ylabel=name)
            _draw_tuned(axes, panel, name, courses[name])
        add_note(figure, note)
    return figure


def _course(rows: Sequence[Mapping[str, float | None]], name: str) -> Series:
    points = [(row["step"], row[name]) for row in rows if row[name] is not None]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return Series(steps.astype(np.int64), values)


class _Epochs:
    """Draws series over epochs.

    Args:
        length: steps that make an epoch.
        last: the last step.
    """

    def __init__(self, length: int, *, last: int) -> None:
        self.length = length
        self.count = last / length

    def prepared(self, panel: Axes) -> Axes:
        panel.set_xlabel("epoch")
        panel.set_xlim(0.0, 1.01 * self.count)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        return panel

    def draw_thin(self, panel: Axes, series: Series, color: str, label: str = "") -> None:
        """What was recorded in the course of the epochs."""
        epochs = series.steps / self.length
        panel.plot(epochs, series.values, color=color, alpha=0.3, linewidth=0.6, label=label)

    def draw_epochs(self, panel: Axes, series: Series, color: str, label: str) -> None:
        """What was measured at the end of each."""
        dots: dict[str, Any] = {"marker": "o", "markersize": 3.5} if self.count <= MARKED else {}
        epochs = series.steps / self.length
        panel.plot(epochs, series.values, color=color, linewidth=1.8, label=label, **dots)


def _draw_tuned(axes: _Epochs, panel: Axes, name: str, series: Series) -> None:
    if name == "mu":  # which jumps
        axes.draw_thin(panel, series, TUNING)
        series = series.smoothed(max(1, round(len(series.steps) / max(axes.count, 1.0))))
        panel.set_ylim(-0.02, 1.02)
    else:
        _fit_scale(panel, series.values)
    panel.plot(series.steps / axes.length, series.values, color=TUNING, linewidth=1.8)


def _fit_scale(panel: Axes, values: Floats) -> None:
    """Logarithmic where the values differ much, else linear from 0."""
    low, high = log_range(values)
    if high >= WIDE * low:
        make_log(panel, values)
    else:
        panel.set_ylim(0.0, 1.1 * high)
