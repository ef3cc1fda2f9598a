"""Pictures of the study: sharpness and loss, trust ratios by layer, the tuner's curvature range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from yfkernels.lab.minima.study import Row
from yfkernels.lab.style import (
    FEW,
    PALETTE,
    STYLE,
    Floats,
    add_note,
    blank_figure,
    log_range,
    make_log,
    make_percent,
)

BATCHES = ("-", "--")  # lines of the small and the large batch
WIDE = (15.0, 9.0)


def draw_minima(
    ends: Sequence[Row], course: Sequence[Row], line: Sequence[Row], note: str
) -> Figure:
    """Six panels: on the way, at the ends, on the line through them; a color an optimizer."""
    with matplotlib.rc_context(STYLE):
        figure = blank_figure(WIDE)
        panels = figure.subplots(2, 3)
        (on_the_way, adaptive, errors), (at_end, losses, accuracies) = panels
        for measure, panel in (("keskar", on_the_way), ("adaptive", adaptive)):
            _draw_ways(panel, course, "train_loss", measure)
        _draw_ways(errors, course, "epoch", "test_loss")
        _draw_ends(at_end, ends)
        _draw_line(losses, line, "loss")
        _draw_line(accuracies, line, "accuracy")
        for panel, measure in ((on_the_way, "keskar"), (adaptive, "adaptive")):
            panel.set(title="On the way", xlabel="training loss, falling")
            make_log(panel, _column(course, measure))
            _make_log_from_right(panel, _column(course, "train_loss"))
        on_the_way.set_ylabel("Keskar's sharpness")
        adaptive.set_ylabel("adaptive sharpness")
        errors.set(title="Test loss", xlabel="epoch")
        make_log(errors, _column(course, "test_loss"))
        at_end.set(title="At the end (hollow: large batch)", ylabel="test loss")
        at_end.set(xlabel="adaptive sharpness", xscale="log")
        make_log(at_end, _column(ends, "test_loss"))
        losses.set(title="Loss on the line (dotted: test)", yscale="log")
        accuracies.set(title="Accuracy on the line (dotted: test)")
        for panel in (losses, accuracies):
            panel.set_xlabel("share of the large batch's solution")
        make_percent(accuracies)
        handles, labels = on_the_way.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, borderpad=0)
        add_note(figure, note)
    return figure


def draw_layers(layers: Sequence[Row], note: str) -> Figure | None:
    """Trust ratio and adaptive sharpness of each tensor, small batch and large; None if no rows."""
    if not layers:
        return None
    optimizer, seed = layers[0]["optimizer"], layers[0]["seed"]
    rows = [r for r in layers if (r["optimizer"], r["seed"]) == (optimizer, seed)]
    sizes = _distinct(rows, "batch_size")
    names = _distinct(rows, "layer")
    with matplotlib.rc_context(STYLE):
        figure = blank_figure((12.0, 8.0))
        panels = figure.subplots(2, len(sizes), sharex="col", sharey="row", squeeze=False)
        for column, size in zip(panels.T, sizes):
            for index, name in enumerate(names):
                one = [r for r in rows if r["layer"] == name and r["batch_size"] == size]
                look = {"color": PALETTE[index % len(PALETTE)], "ls": "-:"[index // len(PALETTE)]}
                for panel, value in zip(column, ("trust_ratio", "adaptive")):
                    panel.plot(_column(one, "epoch"), _column(one, value), label=name, **look)
            column[0].set_title(f"{optimizer}, batch {size}")
            column[1].set_xlabel("epoch")
        panels[0, 0].set(ylabel="trust ratio", yscale="log")
        panels[1, 0].set(ylabel="adaptive sharpness", yscale="log")
        panels[0, -1].legend(fontsize=8)
        add_note(figure, note)
    return figure


def draw_curvature(course: Sequence[Row], note: str) -> Figure | None:
    """YellowFin's range of curvature beside the largest eigenvalue; None if it did not train."""
    tuned = [row for row in course if row["h_max"] is not None and row["seed"] == 0]
    if not tuned:
        return None
    optimizers, sizes = _distinct(tuned, "optimizer"), _distinct(tuned, "batch_size")
    with matplotlib.rc_context(STYLE):
        figure = blank_figure((12.0, 4.5 * len(optimizers)))
        panels = figure.subplots(len(optimizers), len(sizes), squeeze=False)
        for line, optimizer in zip(panels, optimizers):
            for panel, size in zip(line, sizes):
                one = [r for r in tuned if r["optimizer"] == optimizer and r["batch_size"] == size]
                at, low, high = (_column(one, name) for name in ("epoch", "h_min", "h_max"))
                panel.fill_between(at, low, high, color=PALETTE[0], alpha=0.2, lw=0)
                panel.plot(at, low, color=PALETTE[0], label="h_min, h_max")
                panel.plot(at, high, color=PALETTE[0])
                measured = _column(one, "lambda_max")
                panel.plot(at, measured, color=PALETTE[1], lw=2, label="lambda_max, measured")
                panel.set(title=f"{optimizer}, batch {size}", xlabel="epoch", yscale="log")
        panels[0, 0].legend()
        add_note(figure, note)
    return figure


def _make_log_from_right(panel: Axes, values: Floats) -> None:
    """A logarithmic x axis on which time goes to the right as the values fall."""
    panel.set_xscale("log")
    low, high = log_range(values)
    subs = (1.0, 3.0) if high < FEW * low else (1.0,)
    panel.xaxis.set_major_locator(LogLocator(subs=subs))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.invert_xaxis()


def _draw_ways(panel: Axes, course: Sequence[Row], x: str, y: str) -> None:
    """A line for each optimizer and batch: the median of the seeds at each reading."""
    for optimizer, size, look in _looks(course):
        rows = [r for r in course if (r["optimizer"], r["batch_size"]) == (optimizer, size)]
        steps = _distinct(rows, "step")
        points = np.array(
            [[np.median(_column(_at(rows, step), name)) for name in (x, y)] for step in steps]
        )
        label = f"{optimizer}, batch {size}"
        panel.plot(points[:, 0], points[:, 1], marker=".", label=label, **look)


def _draw_ends(panel: Axes, ends: Sequence[Row]) -> None:
    """A point for each training, hollow for the large batch."""
    for optimizer, size, look in _looks(ends):
        rows = [r for r in ends if (r["optimizer"], r["batch_size"]) == (optimizer, size)]
        hollow = look["linestyle"] == BATCHES[1]
        panel.plot(
            _column(rows, "adaptive"),
            _column(rows, "test_loss"),
            "o",
            color=look["color"],
            markerfacecolor="none" if hollow else look["color"],
        )


def _draw_line(panel: Axes, line: Sequence[Row], what: str) -> None:
    """Medians of the seeds: training solid, test dotted."""
    for index, optimizer in enumerate(_distinct(line, "optimizer")):
        rows = [r for r in line if r["optimizer"] == optimizer]
        shares = _distinct(rows, "share")
        for part, style in (("train", "-"), ("test", ":")):
            values = [
                np.median([r[f"{part}_{what}"] for r in rows if r["share"] == share])
                for share in shares
            ]
            panel.plot(shares, values, style, color=PALETTE[index])
    for end in (0.0, 1.0):
        panel.axvline(end, color="#BBBBBB", lw=1)


def _looks(rows: Sequence[Row]) -> Iterable[tuple[str, int, dict[str, Any]]]:
    sizes = sorted(_distinct(rows, "batch_size"))
    for index, optimizer in enumerate(_distinct(rows, "optimizer")):
        for size, style in zip(sizes, BATCHES):
            yield optimizer, size, {"color": PALETTE[index % len(PALETTE)], "linestyle": style}


def _distinct(rows: Sequence[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def _at(rows: Sequence[Row], step: int) -> list[Row]:
    return [row for row in rows if row["step"] == step]


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows], dtype=np.float64)
