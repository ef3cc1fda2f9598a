"""Test loss against the multiplier, and AdamW's against its learning rate: a line a rung."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.convergence.ladder.outcome import DEFAULT, Curve, Outcome, Side
from bench.convergence.ladder.rungs import MODELS, STEPS, Rung
from yfkernels.lab.style import PALETTE, STYLE, make_log
from yfkernels.lab.workloads.text import VOCABULARY

INCHES = (11.0, 8.0)
DOTS_PER_INCH = 110
COLORS = dict(zip(MODELS, (PALETTE[number] for number in (5, 0, 4, 1, 3, 2))))
DASHES = dict(zip((8, 32, 128), (":", "--", "-")))
WIDTHS = dict(zip(STEPS, (1.0, 2.2)))
CHANCE = math.log(VOCABULARY)  # loss of who knows nothing


def draw(outcomes: Sequence[Outcome]) -> Figure:
    """Above with the weights as trained, below with their average.

    Args:
        outcomes: the rungs, at least one.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        panels = figure.subplots(2, 2, sharex="col", sharey=True)
        for row, words in zip(panels, ("as trained", "averaged")):
            for axes, name in zip(row, ("YellowFin", "AdamW")):
                axes.set_title(f"{name}, weights {words}")
                axes.set_xscale("log")
            row[0].set_ylabel("test loss")
        for outcome in outcomes:
            for row, side in zip(panels, (outcome.raw, outcome.averaged)):
                if side is not None:
                    _draw_side(row, outcome.rung, side)
        shown = [line.get_ydata() for axes in panels.flat for line in axes.lines]
        make_log(panels[0, 0], np.concatenate([np.asarray(one, float) for one in shown]))
        multipliers = list(outcomes[0].raw.yellowfin.losses)
        for axes in panels[:, 0]:
            axes.set_xticks(multipliers, [f"{value:g}" for value in multipliers])
            axes.minorticks_off()
            axes.axvline(DEFAULT, color="#BBBBBB", lw=0.8, zorder=0)
        panels[1, 0].set_xlabel("multiplier of the step size")
        panels[1, 1].set_xlabel("lr")
        figure.legend(handles=_keys(outcomes), loc="outside right upper")
    return figure


def _draw_side(row: Sequence[Axes], rung: Rung, side: Side) -> None:
    for axes, curve in zip(row, (side.yellowfin, side.adamw)):
        if curve is not None:
            axes.plot(
                list(curve.losses),
                _shown(curve),
                color=COLORS[rung.model],
                ls=DASHES[rung.batch_size],
                lw=WIDTHS[rung.steps],
                marker="o",
                ms=3.0,
            )


def _shown(curve: Curve) -> list[float]:
    """A gap where it diverged."""
    return [loss if loss <= CHANCE else math.nan for loss in curve.losses.values()]


def _keys(outcomes: Sequence[Outcome]) -> list[Line2D]:
    """What colors, dashes and widths stand for."""
    models = [name for name in MODELS if any(name == one.rung.model for one in outcomes)]
    return [
        *(Line2D([], [], color=COLORS[name], lw=2.0, label=name) for name in models),
        *(
            Line2D([], [], color="black", ls=dash, label=f"batch {size}")
            for size, dash in DASHES.items()
        ),
        *(
            Line2D([], [], color="black", lw=width, label=f"{steps} steps")
            for steps, width in WIDTHS.items()
        ),
    ]
