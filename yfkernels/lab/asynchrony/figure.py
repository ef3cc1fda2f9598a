"""The figure of an asynchronous run: loss, momentum, staleness and its histogram, learning rate."""

from __future__ import annotations

import math
from collections import Counter
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
)

COLUMNS = 6  # of the grid
LOSS = STALE = PALETTE[1]
ALGORITHMIC = REFUSED = PALETTE[0]
TOTAL = RATE = PALETTE[3]
TARGET = "#BBBBBB"
LEGEND: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.05),
    "ncols": 3,
    "borderaxespad": 0,
    "borderpad": 0,
    "columnspacing": 1.4,
    "handlelength": 1.6,
}
SMOOTHED = 20  # a part of a run that bold lines are means of: of 20 epochs, one
LONGEST = 50  # pushes that they are means of at most
WIDE = 4.0  # ratio of the largest to the smallest value from which an axis is logarithmic

Rows = Sequence[Mapping[str, Any]]
Floats = NDArray[np.float64]


def plot_asynchronous(rows: Rows, *, title: str, note: str = "") -> Figure:
    """Draws one run over its pushes.

    Args:
        rows: as `Training.rows`, at least one. Of the momenta those are drawn that it has.
        title: what was trained and how.
        note: conditions, set small under the panels.

    Returns:
        The figure; write it with ``figure.savefig(path)``.
    """
    window = min(math.ceil(len(rows) / SMOOTHED), LONGEST)
    with matplotlib.rc_context(STYLE):
        figure = blank_figure(INCHES)
        figure.suptitle(title, x=0.006, ha="left", fontproperties=TITLE_FONT)
        grid = figure.add_gridspec(2, COLUMNS)
        _draw_loss(figure.add_subplot(grid[0, :3]), rows, window)
        _draw_momentum(figure.add_subplot(grid[0, 3:]), rows, window)
        over_time = figure.add_subplot(grid[1, :3])
        _draw_staleness(over_time, rows, window)
        _draw_histogram(figure.add_subplot(grid[1, 3], sharey=over_time), rows)
        _draw_rate(figure.add_subplot(grid[1, 4:]), rows)
        add_note(figure, note)
    return figure


def _course(rows: Rows, name: str) -> Series:
    """A column over the pushes, where it has a value."""
    points = [(push, row[name]) for push, row in enumerate(rows, 1) if row[name] is not None]
    pushes, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return Series(pushes.astype(np.int64), values)


def _prepare(panel: Axes, rows: Rows, **named: str) -> None:
    panel.set(xlabel="push", **named)
    panel.set_xlim(0.0, 1.01 * len(rows))


def _draw_loss(panel: Axes, rows: Rows, window: int) -> None:
    _prepare(panel, rows, title="Loss", ylabel="cross entropy [nats]")
    losses = _course(rows, "loss")
    panel.plot(losses.steps, losses.values, color=LOSS, alpha=0.3, linewidth=0.6, label="a push")
    mean = losses.smoothed(window)
    panel.plot(mean.steps, mean.values, color=LOSS, linewidth=1.8, label=f"mean of {window}")
    make_log(panel, losses.values)
    panel.legend(**LEGEND)


def _draw_momentum(panel: Axes, rows: Rows, window: int) -> None:
    """The total is read from noisy gradients: what counts is its mean."""
    _prepare(panel, rows, title="Momentum", ylabel="momentum")
    target, set_, total = (
        _course(rows, name) for name in ("target_momentum", "momentum", "total_momentum")
    )
    if len(total.steps):
        panel.plot(total.steps, total.values, color=TOTAL, alpha=0.25, linewidth=0.6)
    drawn = []
    for series, color, width, label in (
        (target, TARGET, 3.5, "target"),  # seen where an open loop sets just that
        (total.smoothed(window), TOTAL, 1.8, "measured (total)"),
        (set_, ALGORITHMIC, 1.8, "algorithmic"),
    ):
        if len(series.steps):
            look: dict[str, Any] = {"color": color, "linewidth": width, "label": label}
            panel.plot(series.steps, series.values, **look)
            drawn.append(series.values)
    if drawn:
        values = np.concatenate([*drawn, [0.0]])
        panel.set_ylim(values.min() - 0.1, values.max() + 0.1)
        panel.legend(**LEGEND)


def _draw_staleness(panel: Axes, rows: Rows, window: int) -> None:
    _prepare(panel, rows, title="Staleness", ylabel="pushes since the pull")
    applied = [(push, row) for push, row in enumerate(rows, 1) if row["applied"]]
    refused = [(push, row) for push, row in enumerate(rows, 1) if not row["applied"]]
    for pushes, color, label in ((applied, STALE, "applied"), (refused, REFUSED, "refused")):
        if pushes:
            panel.scatter(
                [push for push, _ in pushes],
                [row["staleness"] for _, row in pushes],
                color=color,
                alpha=0.5,
                s=5,
                linewidths=0,
                label=label,
            )
    if applied:
        mean = _course([row for _, row in applied], "staleness").smoothed(window).values
        panel.plot([push for push, _ in applied], mean, color=STALE, linewidth=1.8)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylim(-0.5, max(1, *(row["staleness"] for row in rows)) + 0.5)
    if refused:
        panel.legend(**LEGEND | {"markerscale": 2.5})


def _draw_histogram(panel: Axes, rows: Rows) -> None:
    """Of the applied pushes, on its side: its axis is that of the panel beside it."""
    counts = Counter(row["staleness"] for row in rows if row["applied"])
    shares = [count / counts.total() for count in counts.values()]
    panel.barh(list(counts), shares, color=STALE, alpha=0.7, height=0.8)
    panel.set(title="Share", xlabel="of applied")
    panel.tick_params(labelleft=False)
    panel.xaxis.set_major_formatter(lambda share, _: f"{100.0 * share:g}%")
    panel.xaxis.set_major_locator(MaxNLocator(3))


def _draw_rate(panel: Axes, rows: Rows) -> None:
    _prepare(panel, rows, title="Learning rate", ylabel="lr")
    rates = _course(rows, "lr")
    panel.plot(rates.steps, rates.values, color=RATE, linewidth=1.8)
    low, high = log_range(rates.values)
    if high >= WIDE * low:
        make_log(panel, rates.values)
    else:
        panel.set_ylim(0.0, 1.1 * high)
