"""The figure of the experiment: final losses over what is wrong, a row a workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from yfkernels.lab.robustness.basins import basin, capped, level
from yfkernels.lab.robustness.contestants import CONTESTANTS
from yfkernels.lab.robustness.options import WORKLOADS
from yfkernels.lab.robustness.sweeps import Curve, Sweep
from yfkernels.lab.style import (
    PALETTE,
    STYLE,
    TITLE_FONT,
    add_note,
    blank_figure,
    make_log,
)

WIDTH, ROW_HEIGHT, MARGIN_HEIGHT = 13.0, 3.3, 1.2  # inches
COLORS = dict(zip(CONTESTANTS, (PALETTE[2], PALETTE[1], PALETTE[6], PALETTE[0])))


def plot_sweeps(sweeps: Sequence[Sweep], *, title: str, note: str = "") -> Figure:
    """Draws what a wrong setting costs.

    Left: lr wrong by a factor, each optimizer; bold where the loss is within the margin of its own
    best. Where SGD is among them, also its grid, a line a momentum, and its momentum made wrong.

    Args:
        sweeps: at least one.
        title: what is compared.
        note: conditions, set small under the panels.

    Returns:
        The figure; write it with ``figure.savefig(path)``.
    """
    rows: dict[str, list[Sweep]] = {}
    for one in sweeps:
        rows.setdefault(one.workload, []).append(one)
    columns = 3 if any(one.by_momentum for one in sweeps) else 1
    with matplotlib.rc_context(STYLE):
        figure = blank_figure((WIDTH, MARGIN_HEIGHT + ROW_HEIGHT * len(rows)))
        panels = figure.subplots(len(rows), columns, sharey="row", squeeze=False)
        for (workload, row), (first, *others) in zip(rows.items(), panels):
            _draw_row(first, others, workload, row)
        handles = {text: line for panel in panels[:, 0] for line, text in _labeled(panel)}
        figure.legend(
            handles.values(),
            handles.keys(),
            title=title,
            title_fontproperties=TITLE_FONT,
            loc="outside upper left",
            alignment="left",
            ncols=len(handles),
            borderpad=0,
        )
        add_note(figure, note)
    return figure


def _labeled(panel: Axes) -> Any:
    return zip(*panel.get_legend_handles_labels())


def _draw_row(first: Axes, others: Sequence[Axes], workload: str, row: Sequence[Sweep]) -> None:
    about = WORKLOADS[workload]
    first.set(title=f"{about.label}: lr times a factor", ylabel=f"final {about.unit}")
    first.set(xlabel="factor on the tuned lr; YellowFin: on 1")
    for one in row:
        _draw_curve(first, one.by_lr, COLORS[one.optimizer], CONTESTANTS[one.optimizer].label)
    initial = row[0].by_lr.outcomes[0][0].initial_loss
    for each in (first, *others):
        each.axhline(initial, color="#BBBBBB", linewidth=1.0, linestyle="--")
        each.set_xscale("log")
        each.xaxis.set_minor_locator(NullLocator())
    for one in row:
        if one.tuned.momentum is not None and one.by_momentum is not None:
            by_lr, by_momentum = others
            by_lr.set(title="SGD: its grid, by momentum", xlabel="lr")
            _draw_grid(by_lr, one)
            by_momentum.set(title="SGD: 1 - momentum times a factor")
            by_momentum.set(xlabel=f"factor on {1.0 - one.tuned.momentum:.3g}")
            _draw_curve(by_momentum, one.by_momentum, COLORS["sgd"], "")
    losses = [one.by_lr.at_seed(seed) for one in row for seed in range(len(one.losses))]
    make_log(first, np.ravel(losses))


def _draw_curve(panel: Axes, curve: Curve, color: str, label: str) -> None:
    """Mean and range over the seeds; bold in the basin of the mean."""
    mean = curve.mean
    seeds = np.array([curve.at_seed(place) for place in range(len(curve.outcomes[0]))])
    panel.fill_between(
        curve.factors, seeds.min(0), seeds.max(0), color=color, alpha=0.15, linewidth=0
    )
    panel.plot(curve.factors, mean, color=color, linewidth=1.0, marker="o", markersize=2.5)
    initial = np.exp(np.mean([np.log(each.initial_loss) for each in curve.outcomes[0]]))
    good = basin(curve.factors, mean, level(min(mean), float(initial)))
    inside = np.geomspace(good.low, good.high, 200)
    losses = np.exp(np.interp(np.log(inside), np.log(curve.factors), np.log(mean)))
    panel.plot(inside, losses, color=color, linewidth=3.0, label=label, solid_capstyle="butt")


def _draw_grid(panel: Axes, one: Sweep) -> None:
    contestant = CONTESTANTS[one.optimizer]
    colors: Mapping[Any, str] = dict(zip(contestant.momenta, PALETTE[1:]))
    for momentum, color in colors.items():
        outcomes = [one.grid[setting] for setting in one.grid if setting.momentum == momentum]
        losses = [capped(each.loss, each.initial_loss) for each in outcomes]
        panel.plot(
            contestant.lrs,
            losses,
            color=color,
            linewidth=1.5,
            marker="o",
            markersize=2.5,
            label=f"{momentum:.3g}",
        )
    panel.legend(loc="best", handlelength=1.2, labelspacing=0.25)
