"""How the lab's figures look: sizes, colors, title, note."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Okabe and Ito's palette, which the color-blind can tell apart; gray stands for its black.
PALETTE = ("#D55E00", "#0072B2", "#7F7F7F", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INCHES = (12.0, 7.0)
SMALL_INCHES = (12.0, 5.0)
DOTS_PER_INCH = 150
LETTERS = 12  # of a note, an inch
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
TITLE_FONT = {"size": 15, "weight": "bold"}
FEW = 100.0  # ratio up to which a logarithmic axis is marked at 2 and 5 too


def blank_figure(inches: tuple[float, float]) -> Figure:
    """A figure whose panels make room for each other's labels."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    return Figure(figsize=inches, dpi=DOTS_PER_INCH, layout=layout)


def add_note(figure: Figure, note: str) -> None:
    """Conditions of the measurement, set small under the panels."""
    note = fill(note, round(LETTERS * figure.get_figwidth()))
    figure.supxlabel(note, x=0.006, ha="left", fontsize=9, color="#666666")


def make_log(panel: Axes, values: Floats) -> None:
    """A logarithmic y axis for these values, with plain numbers at it."""
    low, high = log_range(values)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < FEW * low else (1.0,)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def make_percent(panel: Axes) -> None:
    """Shares at the y axis as percents, with the digits that they have: 97.5%, not 98%."""
    panel.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100.0 * share:g}%"))


def log_range(values: Floats) -> tuple[float, float]:
    """The smallest and the largest of those that a logarithm has."""
    fit = values[(values > 0.0) & np.isfinite(values)]
    return (float(fit.min()), float(fit.max())) if len(fit) else (1.0, 1.0)
