"""Figures of recorded trainings. Drawn without a display: nothing here touches pyplot's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from yfkernels.monitor.recorder import Recorder

# Okabe and Ito's palette, which the colour-blind can tell apart; grey stands for its black.
PALETTE = ("#D55E00", "#0072B2", "#7F7F7F", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INCHES = (12.0, 7.0)
DOTS_PER_INCH = 150
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": "#444444",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "legend.frameon": False,
}


def plot_comparison(
    recorders: Mapping[str, Recorder], *, title: str, note: str = "", smoothing: int = 25
) -> Figure:
    """Draws how several optimizers trained the same task.

    Five panels: training loss, test accuracy, step size, momentum and curvature range. An
    optimizer appears in every panel whose values it recorded.

    Args:
        recorders: label to recorder. Used are ``loss``, ``test_accuracy`` (0 to 1) and, named as
            in ``YellowFin.diagnostics()``, ``lr``, ``momentum``, ``h_min``, ``h_max`` and
            ``grad_norm``.
        title: what is compared.
        note: conditions of the measurement, set small under the panels.
        smoothing: number of steps in the trailing mean of the loss.

    Returns:
        The figure; write it with ``figure.savefig(path)``.
    """
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout=layout)
        grid = figure.add_gridspec(2, 3)
        panels = {
            "loss": figure.add_subplot(grid[0, :2]),
            "test_accuracy": figure.add_subplot(grid[0, 2]),
            "lr": figure.add_subplot(grid[1, 0]),
            "momentum": figure.add_subplot(grid[1, 1]),
            "curvature": figure.add_subplot(grid[1, 2]),
        }
        _name_panels(panels, smoothing)
        # The first contender is drawn last, on top of what it is compared with.
        for index, (label, recorder) in reversed(list(enumerate(recorders.items()))):
            color = PALETTE[index % len(PALETTE)]
            _draw_loss(panels["loss"], recorder, color, label, smoothing)
            _draw_accuracy(panels["test_accuracy"], recorder, color)
            _draw_line(panels["lr"], recorder, "lr", color)
            _draw_line(panels["momentum"], recorder, "momentum", color)
            _draw_curvature(panels["curvature"], recorder, color)

        for panel in panels.values():
            panel.set_xlim(left=0)
        handles, labels = panels["loss"].get_legend_handles_labels()
        figure.legend(
            handles[::-1],
            labels[::-1],
            title=title,
            title_fontproperties={"size": 15, "weight": "bold"},
            loc="outside upper left",
            alignment="left",
            ncols=len(labels),
            borderpad=0,
        )
        figure.supxlabel(note, x=0.006, ha="left", fontsize=9, color="#666666")
    return figure


def _name_panels(panels: Mapping[str, Axes], smoothing: int) -> None:
    panels["loss"].set(
        title=f"Training loss (bold: mean of the last {smoothing} steps)",
        ylabel="cross entropy [nats]",
        yscale="log",
    )
    panels["test_accuracy"].set(title="Test accuracy", ylabel="right answers")
    panels["test_accuracy"].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panels["lr"].set(title="Step size", ylabel="lr", yscale="log")
    panels["momentum"].set(title="Momentum", ylabel="momentum", ylim=(-0.02, 1.02))
    panels["curvature"].set(
        title="Curvature range",
        ylabel="squared gradient norm (thin)",
        yscale="log",
    )
    for panel in panels.values():
        panel.set_xlabel("step")
        panel.margins(x=0.01)


def _draw_loss(axes: Axes, recorder: Recorder, color: str, label: str, smoothing: int) -> None:
    raw = recorder["loss"]
    smooth = raw.smoothed(smoothing)
    axes.plot(raw.steps, raw.values, color=color, alpha=0.22, linewidth=0.6)
    axes.plot(smooth.steps, smooth.values, color=color, linewidth=2.0, label=label, zorder=3)


def _draw_accuracy(axes: Axes, recorder: Recorder, color: str) -> None:
    if "test_accuracy" in recorder:
        accuracy = recorder["test_accuracy"]
        axes.plot(accuracy.steps, accuracy.values, color=color, marker="o", markersize=3.5)


def _draw_line(axes: Axes, recorder: Recorder, name: str, color: str) -> None:
    if name in recorder:
        series = recorder[name]
        axes.plot(series.steps, series.values, color=color, linewidth=2.0)


def _draw_curvature(axes: Axes, recorder: Recorder, color: str) -> None:
    """The band the tuner believes in, over the squared gradient norms it is made from."""
    if "h_min" not in recorder:
        return
    norm, low, high = (recorder[name] for name in ("grad_norm", "h_min", "h_max"))
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
