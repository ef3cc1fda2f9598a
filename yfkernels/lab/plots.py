"""Figures of recorded trainings. Drawn without a display: nothing here touches pyplot's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from yfkernels.lab.recorder import Recorder, Series
from yfkernels.lab.style import (
    INCHES,
    PALETTE,
    SMALL_INCHES,
    STYLE,
    TITLE_FONT,
    add_note,
    blank_figure,
    make_percent,
)

LEGEND_COLUMNS = 4
COLUMNS = 6  # of the grid: one, two or three panels fill a row
TUNING = {"lr": "lr", "momentum": "momentum", "curvature": "h_min"}  # panel: what it cannot lack


class Trained(Protocol):
    """What `plot_batch_sizes` draws of one training."""

    @property
    def train_loss(self) -> float:
        """Mean loss over the training set."""

    @property
    def test_accuracy(self) -> float:
        """Fraction of correct predictions on the test set, 0 to 1."""


def mean_of(series: Sequence[Series]) -> Series:
    """The mean of several series that were recorded at the same steps."""
    return Series(series[0].steps, np.mean([one.values for one in series], axis=0))


def plot_comparison(
    courses: Mapping[str, Sequence[Recorder]], *, title: str, note: str = "", smoothing: int = 25
) -> Figure:
    """Draws how several optimizers trained the same task.

    Up to five panels: training loss, test accuracy, step size, momentum and curvature range. An
    optimizer appears in every panel whose values it recorded; a panel without any is left out.
    Of several trainings the mean is drawn; for loss and accuracy, their range as well.

    Args:
        courses: label to recorders, one for each seed. Used are ``loss``, ``test_accuracy`` (0 to
            1), ``averaged_accuracy`` (of an average of the weights) and, named as in
            ``YellowFin.diagnostics()``, ``lr``, ``momentum``, ``h_min``, ``h_max`` and
            ``grad_norm``.
        title: what is compared.
        note: conditions of the measurement, set small under the panels.
        smoothing: number of steps in the trailing mean of the loss.

    Returns:
        The figure; write it with ``figure.savefig(path)``.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(courses)
        _name_panels(panels, smoothing)
        # The first optimizer is drawn last, on top of what it is compared with.
        for index, (label, recorders) in reversed(list(enumerate(courses.items()))):
            look = _look(index)
            _draw_loss(panels["loss"], recorders, look, label, smoothing)
            if "test_accuracy" in recorders[0]:
                _draw_accuracy(panels["test_accuracy"], recorders, look)
            for name in ("lr", "momentum"):
                if name in recorders[0]:
                    _draw_line(panels[name], recorders, name, look)
            if "h_min" in recorders[0]:
                _draw_curvature(panels["curvature"], recorders, look["color"])

        for panel in panels.values():
            panel.set_xlim(left=0)
        _add_legend(figure, panels["loss"], title, note)
    return figure


def plot_batch_sizes(
    outcomes: Mapping[str, Mapping[int, Sequence[Trained]]], *, title: str, note: str = ""
) -> Figure:
    """Draws where trainings with different batch sizes ended: mean and range over the seeds.

    Two panels: test error and training loss.

    Args:
        outcomes: label to batch size to one outcome for each seed.
        title: what is compared.
        note: conditions of the measurement, set small under the panels.

    Returns:
        The figure; write it with ``figure.savefig(path)``.
    """
    measures: tuple[Callable[[Trained], float], ...] = (
        lambda outcome: 1.0 - outcome.test_accuracy,
        lambda outcome: outcome.train_loss,
    )
    with matplotlib.rc_context(STYLE):
        figure = blank_figure(SMALL_INCHES)
        errors, losses = panels = figure.subplots(1, 2)
        errors.set(title="Test error", yscale="log")
        errors.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        make_percent(errors)
        errors.yaxis.set_minor_locator(NullLocator())
        losses.set(title="Training loss", ylabel="cross entropy [nats]", yscale="log")
        for index, (label, by_size) in reversed(list(enumerate(outcomes.items()))):
            look = _look(index)
            sizes = list(by_size)
            for panel, measure in zip(panels, measures):
                values = np.array([[measure(one) for one in by_size[size]] for size in sizes])
                panel.plot(sizes, values.mean(1), marker="o", label=label, **look)
                _draw_range(panel, sizes, values.T, look["color"])
        for panel in panels:
            panel.set_xlabel("batch size")
            panel.set_xscale("log", base=2)
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.xaxis.set_minor_locator(NullLocator())
        _add_legend(figure, losses, title, note)
    return figure


def _panels(courses: Mapping[str, Sequence[Recorder]]) -> tuple[Figure, dict[str, Axes]]:
    """The loss, and of the other panels those that have something to show."""

    def recorded(name: str) -> bool:
        return any(name in recorders[0] for recorders in courses.values())

    below = [panel for panel, name in TUNING.items() if recorded(name)]
    figure = blank_figure(INCHES if below else SMALL_INCHES)
    grid = figure.add_gridspec(2 if below else 1, COLUMNS)
    edge = 2 * COLUMNS // 3 if recorded("test_accuracy") else COLUMNS
    panels = {"loss": figure.add_subplot(grid[0, :edge])}
    if edge < COLUMNS:
        panels["test_accuracy"] = figure.add_subplot(grid[0, edge:])
    for place, panel in enumerate(below):
        width = COLUMNS // len(below)
        panels[panel] = figure.add_subplot(grid[1, place * width : (place + 1) * width])
    return figure, panels


def _look(index: int) -> dict[str, Any]:
    """Color of an optimizer; beyond the palette the colors return with dashes."""
    rounds, color = divmod(index, len(PALETTE))
    return {
        "color": PALETTE[color],
        "linestyle": ("-", "--", ":")[rounds % 3],
        "linewidth": 2.0,
    }


def _add_legend(figure: Figure, panel: Axes, title: str, note: str) -> None:
    """Title and legend above the panels, the note below."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        title=title,
        title_fontproperties=TITLE_FONT,
        loc="outside upper left",
        alignment="left",
        ncols=min(len(labels), LEGEND_COLUMNS),
        borderpad=0,
    )
    add_note(figure, note)


def _name_panels(panels: Mapping[str, Axes], smoothing: int) -> None:
    window = f"{smoothing} step{'s' * (smoothing > 1)}"
    named: dict[str, dict[str, Any]] = {
        "loss": {
            "title": f"Training loss (bold: mean of the last {window})",
            "ylabel": "cross entropy [nats]",
            "yscale": "log",
        },
        "test_accuracy": {"title": "Test accuracy", "ylabel": "accuracy"},
        "lr": {"title": "Step size", "ylabel": "lr", "yscale": "log"},
        "momentum": {"title": "Momentum", "ylabel": "momentum", "ylim": (-0.02, 1.02)},
        "curvature": {
            "title": "Curvature range",
            "ylabel": "squared gradient norm (thin)",
            "yscale": "log",
        },
    }
    for name, panel in panels.items():
        panel.set(**named[name], xlabel="step")
        panel.margins(x=0.01)
    if "test_accuracy" in panels:
        make_percent(panels["test_accuracy"])


def _draw_loss(
    axes: Axes, recorders: Sequence[Recorder], look: dict[str, Any], label: str, smoothing: int
) -> None:
    raw = [recorder["loss"] for recorder in recorders]
    smooth = [one.smoothed(smoothing) for one in raw]
    if len(raw) == 1:
        axes.plot(raw[0].steps, raw[0].values, color=look["color"], alpha=0.22, linewidth=0.6)
    else:
        _draw_range(axes, smooth[0].steps, [one.values for one in smooth], look["color"])
    mean = mean_of(smooth)
    axes.plot(mean.steps, mean.values, label=label, zorder=3, **look)


def _draw_accuracy(axes: Axes, recorders: Sequence[Recorder], look: dict[str, Any]) -> None:
    accuracies = [recorder["test_accuracy"] for recorder in recorders]
    mean = mean_of(accuracies)
    if len(accuracies) > 1:
        _draw_range(axes, mean.steps, [one.values for one in accuracies], look["color"])
    axes.plot(mean.steps, mean.values, marker="o", markersize=3.5, **look | {"linewidth": 1.5})
    if "averaged_accuracy" in recorders[0]:
        mean = mean_of([recorder["averaged_accuracy"] for recorder in recorders])
        axes.plot(mean.steps, mean.values, **look | {"linewidth": 1.5, "linestyle": "--"})
        axes.set_title("Test accuracy (dashed: average)")


def _draw_line(axes: Axes, recorders: Sequence[Recorder], name: str, look: dict[str, Any]) -> None:
    mean = mean_of([recorder[name] for recorder in recorders])
    axes.plot(mean.steps, mean.values, **look)


def _draw_range(axes: Axes, x: Any, values: Any, color: str) -> None:
    """From the lowest to the highest of several rows of values."""
    low, high = np.min(values, axis=0), np.max(values, axis=0)
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _draw_curvature(axes: Axes, recorders: Sequence[Recorder], color: str) -> None:
    """The band the tuner believes in, over the squared gradient norms it is made from."""
    norm, low, high = (
        mean_of([recorder[name] for recorder in recorders])
        for name in ("grad_norm", "h_min", "h_max")
    )
    axes.plot(norm.steps, norm.values**2, color=color, alpha=0.35, linewidth=0.6)
    axes.fill_between(low.steps, low.values, high.values, color=color, alpha=0.2, linewidth=0)
    for name, edge in (("h_min", low), ("h_max", high)):
        axes.plot(edge.steps, edge.values, color=color, linewidth=1.6)
        axes.annotate(
            name,
            (edge.steps[-1], edge.values[-1]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=color,
        )
