"""Pictures of the results: the course of every loss, and everyone relative to the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from bench.convergence import measures
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.summary import Summary
from yfkernels.lab.style import PALETTE, STYLE

INCHES = (10.0, 5.6)
DOTS_PER_INCH = 100
COLD = (*(PALETTE[number] for number in (1, 6, 4, 3)), "#332288")
WARM = (PALETTE[0], "#882255", PALETTE[5], PALETTE[2])
DASHES = ("-", "--", ":", "-.")


def draw_curves(summary: Summary, title: str, conditions: str) -> Figure:
    """The running loss of every contestant: median and range over the seeds.

    Args:
        summary: a task's trainings.
        title: what was trained.
        conditions: set small under the axes.

    Returns:
        The figure.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        axes = figure.add_subplot()
        looks = _looks()
        at = measures.sampled_steps(summary.steps)
        traces = [result.trace for rows in summary.results.values() for result in rows]
        starts = [trace[0] for trace in traces if trace and np.isfinite(trace[0])]
        for name, results in summary.results.items():
            color, dash = looks[name]
            width = 2.2 if CONTESTANTS[name].ours else 1.2
            middle = summary.trace(name)
            shown = np.where(np.isfinite(middle), middle, np.nan)
            axes.plot(at, shown, dash, color=color, lw=width, label=CONTESTANTS[name].label)
            reach = min(len(result.trace) for result in results)
            together = np.array([result.trace[:reach] for result in results])
            axes.fill_between(
                at[:reach], together.min(0), together.max(0), color=color, alpha=0.12, lw=0
            )
        axes.set_yscale("log")
        axes.set_ylim(top=2.0 * max(starts) if starts else None)
        axes.set_xlim(0, summary.steps)
        axes.set_title(title)
        axes.set_xlabel(f"step\n{conditions}")
        axes.set_ylabel("running train loss")
        figure.legend(loc="outside right upper")
    return figure


def draw_summary(summaries: Sequence[Summary]) -> Figure:
    """Three maps of contestants against tasks: final loss, test metric, iterations; medians."""
    names = [name for name in CONTESTANTS if any(name in summary.results for summary in summaries)]
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "font.size": 8}):
        size = (5.0 + 0.8 * len(summaries), 3.0 + 3 * 0.27 * len(names))
        figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
        panels = figure.subplots(3, 1, sharex=True)
        maps = (
            ("Final running train loss, over the lowest", _final, LogNorm(1.0, 100.0)),
            ("Test error or test loss, over the lowest", _test, LogNorm(1.0, 4.0)),
            ("Iterations, over tuned AdamW's", _iterations, LogNorm(0.1, 10.0)),
        )
        for axes, (title, measure, norm) in zip(panels, maps):
            _draw_map(axes, names, summaries, measure, norm)
            axes.set_title(title)
    return figure


def _final(summary: Summary, name: str) -> float:
    lowest = min(_median_final(summary, one) for one in summary.results)
    return _over(_median_final(summary, name), lowest)


def _median_final(summary: Summary, name: str) -> float:
    return summary.spread(name, lambda result: result.final_loss).median


def _test(summary: Summary, name: str) -> float:
    return _over(_error(summary, name), min(_error(summary, one) for one in summary.results))


def _error(summary: Summary, name: str) -> float:
    metric = summary.metric(name).median
    return 1.0 - metric if summary.has_classes else metric


def _iterations(summary: Summary, name: str) -> float:
    ratio = summary.iteration_ratio(name)
    return math.nan if ratio is None else ratio.median


def _over(value: float, lowest: float) -> float:
    tiny = np.finfo(np.float64).tiny
    return value / max(lowest, tiny) if math.isfinite(value) else math.inf


def _draw_map(
    axes: Axes,
    names: Sequence[str],
    summaries: Sequence[Summary],
    measure: Callable[[Summary, str], float],
    norm: LogNorm,
) -> None:
    values = np.array(
        [
            [measure(one, name) if name in one.results else math.nan for one in summaries]
            for name in names
        ]
    )
    shown = np.ma.masked_invalid(np.where(np.isinf(values), np.finfo(float).max, values))
    axes.imshow(shown, cmap="RdYlGn_r", norm=norm, aspect="auto", alpha=0.75)
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            text = "∞" if math.isinf(value) else f"{value:.3g}" if value < 1e4 else f"{value:.0e}"
            axes.text(column, row, text, ha="center", va="center")
    axes.set_yticks(range(len(names)), [CONTESTANTS[name].label for name in names])
    axes.set_xticks(range(len(summaries)), [one.task for one in summaries], rotation=20, ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _looks() -> dict[str, tuple[str, str]]:
    """Color and line. Ours have warm colors; a family of others shares a cold one."""
    looks, families = {}, dict[str, list[str]]()
    ours = [name for name, contestant in CONTESTANTS.items() if contestant.ours]
    for name in CONTESTANTS:
        if name in ours:
            number = ours.index(name)
            looks[name] = WARM[number % len(WARM)], DASHES[number // len(WARM) % len(DASHES)]
            continue
        family = families.setdefault(name.partition("-")[0], [])
        number = list(families).index(name.partition("-")[0])
        looks[name] = COLD[number % len(COLD)], DASHES[len(family) % len(DASHES)]
        family.append(name)
    return looks
