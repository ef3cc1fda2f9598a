"""Maps of contestants against tasks: everyone relative to the best, weights and averages apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from bench.convergence.contestants import CONTESTANTS, beside
from bench.convergence.summary import Summary
from yfkernels.lab.style import STYLE

DOTS_PER_INCH = 100


@dataclass(frozen=True)
class _Map:
    """What is shown of each contestant and task.

    Attributes:
        title: of the map.
        value: a median over the seeds.
        norm: of the colors.
        is_of_course: averages have no such value.
        is_relative: shown over the lowest of the map's contestants.
    """

    title: str
    value: Callable[[Summary, str], float]
    norm: LogNorm
    is_of_course: bool = False
    is_relative: bool = True


def _final_loss(summary: Summary, name: str) -> float:
    return summary.spread(name, lambda result: result.final_loss).median


def _train_loss(summary: Summary, name: str) -> float:
    return summary.spread(name, lambda result: result.train_loss).median


def _error(summary: Summary, name: str) -> float:
    return summary.error(name).median


def _iterations(summary: Summary, name: str) -> float:
    ratio = summary.iteration_ratio(name)
    return math.nan if ratio is None else ratio.median


_MAPS = (
    _Map("Loss on the training set, over the lowest", _train_loss, LogNorm(1.0, 100.0)),
    _Map("Test error or test loss, over the lowest", _error, LogNorm(1.0, 4.0)),
    _Map(
        "Final running train loss, over the lowest",
        _final_loss,
        LogNorm(1.0, 100.0),
        is_of_course=True,
    ),
    _Map(
        "Iterations, over tuned AdamW's",
        _iterations,
        LogNorm(0.1, 10.0),
        is_of_course=True,
        is_relative=False,
    ),
)


def draw_summary(summaries: Sequence[Summary]) -> Figure:
    """Medians, with the last weights, and beside them with averages if some were measured."""
    trained = {name for summary in summaries for name in summary.results}
    raw = [name for name in CONTESTANTS if name in trained and not CONTESTANTS[name].average]
    averages = [name for name in CONTESTANTS if name in trained and CONTESTANTS[name].average]
    columns = {"": raw}
    if averages:
        with_own = [name for name in raw if beside(name, average=True) == name]
        columns["; averages"] = [*with_own, *averages]
    panels = [
        (one, names, one.title + words)
        for one in _MAPS
        for words, names in columns.items()
        if names is raw or not one.is_of_course
    ]
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "font.size": 8}):
        across, down = len(columns), len(panels) // len(columns)
        height = 0.27 * max(map(len, columns.values())) + 0.75
        size = ((5.0 + 0.8 * len(summaries)) * across, height * down)
        figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes, (one, names, title) in zip(grid.flat, panels):
            _draw(axes, names, summaries, one)
            axes.set_title(title)
    return figure


def _draw(axes: Axes, names: Sequence[str], summaries: Sequence[Summary], shown: _Map) -> None:
    values = np.array(
        [
            [shown.value(one, name) if name in one.results else math.nan for one in summaries]
            for name in names
        ]
    )
    if shown.is_relative:
        lowest = np.nanmin(np.append(values, np.full((1, len(summaries)), np.inf), axis=0), axis=0)
        tiny = np.finfo(np.float64).tiny
        finite = np.isfinite(values)
        over = np.where(finite, values, 0.0) / np.where(
            np.isfinite(lowest), np.maximum(lowest, tiny), 1.0
        )
        values = np.where(finite, over, values)
    colored = np.ma.masked_invalid(np.where(np.isinf(values), np.finfo(float).max, values))
    axes.imshow(colored, cmap="RdYlGn_r", norm=shown.norm, aspect="auto", alpha=0.75)
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            text = "∞" if math.isinf(value) else f"{value:.3g}" if value < 1e4 else f"{value:.0e}"
            axes.text(column, row, text, ha="center", va="center")
    axes.set_yticks(range(len(names)), [CONTESTANTS[name].label for name in names])
    axes.set_xticks(range(len(summaries)), [one.task for one in summaries], rotation=20, ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
