"""The picture of the robust region: spectral radius over lr h, flat where momentum makes it so."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from yfkernels.analysis import robust_region, spectral_radius
from yfkernels.lab.style import (
    PALETTE,
    SMALL_INCHES,
    STYLE,
    TITLE_FONT,
    add_note,
    blank_figure,
)

PRODUCTS = np.geomspace(1e-5, 10.0, 1500)
MOMENTA = (0.0, 0.5, 0.9, 0.99)
NEGATIVE = -0.5
NU = 0.7
PANELS: dict[str, dict[str, Any]] = {
    "Polyak (torch's SGD)": {"form": "polyak"},
    "Nesterov (torch's SGD)": {"form": "nesterov"},
    f"QHM, nu {NU:g}": {"form": "qhm", "nu": NU},
}
NOTE = (
    "x: error, h: curvature. Bold: the robust region, where the eigenvalues are complex. "
    "Above 1 the steps diverge."
)


def plot_region() -> Figure:
    """Draws the spectral radius of a step on h/2 x², a panel for each form of momentum.

    Returns:
        The figure; write it with ``figure.savefig(path)``.
    """
    with matplotlib.rc_context(STYLE):
        figure = blank_figure(SMALL_INCHES)
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for panel, (title, form) in zip(panels, PANELS.items()):
            panel.set(title=title, xlabel="lr h", xscale="log", ylim=(0.0, 1.2))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.axhline(1.0, color="#BBBBBB", linewidth=1.0)
            for momentum, color in zip(MOMENTA, PALETTE[1:]):
                _draw(panel, momentum, form, color)
        (first, *_) = panels
        look: dict[str, Any] = {"color": PALETTE[0], "linestyle": "--", "linewidth": 1.2}
        radii = spectral_radius(PRODUCTS, NEGATIVE, 1.0)
        first.plot(PRODUCTS, radii, label=f"momentum {NEGATIVE:g}", **look)
        first.set_ylabel("spectral radius: |x| shrinks by it a step")
        figure.legend(
            *first.get_legend_handles_labels(),
            title="Spectral radius of a momentum step on a quadratic",
            title_fontproperties=TITLE_FONT,
            loc="outside upper left",
            alignment="left",
            ncols=len(MOMENTA) + 1,
            borderpad=0,
        )
        add_note(figure, NOTE)
    return figure


def _draw(panel: Axes, momentum: float, form: dict[str, Any], color: str) -> None:
    radii = spectral_radius(PRODUCTS, momentum, 1.0, **form)
    panel.plot(PRODUCTS, radii, color=color, linewidth=1.2, label=f"momentum {momentum:g}")
    region = robust_region(momentum, **form)
    inside = np.geomspace(region.low, region.high, 400)
    panel.plot(inside, spectral_radius(inside, momentum, 1.0, **form), color=color, linewidth=3.5)
