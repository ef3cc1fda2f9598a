"""What one server of the asynchronous engines takes, by workers and by size of the model.

    python -m bench.speed.throughput bench/results/asynchronous/gloo-1a109ff.csv throughput.png

Draws the samples of `python -m bench.speed.gloo` or `python -m bench.speed.ray`: on the left the
bandwidth, gradients and parameters of all workers; on the right the pushes in a second. Where M
workers that need s seconds for a gradient bring M / s pushes a second, the server is saturated.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from yfkernels.lab.asynchrony.figure import LEGEND
from yfkernels.lab.style import PALETTE, SMALL_INCHES, STYLE, add_note, blank_figure

LOOKS = {"engine": "-", "bare": ":"}  # of the ways that are drawn


class Task(NamedTuple):
    """What the exchanges of one turn were."""

    way: str
    workers: int
    megabytes: float


def pushes_per_second(lines: Iterable[str]) -> dict[Task, float]:
    """Of all workers together: the median of the turns."""
    turns: dict[Task, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        task = Task(row["way"], int(row["workers"]), float(row["megabytes"]))
        turns[task][row["round"]] += int(row["exchanges"]) / float(row["seconds"])
    return {task: median(rates.values()) for task, rates in turns.items()}


def draw(rates: dict[Task, float], note: str) -> Figure:
    """Bandwidth against workers, and pushes in a second against megabytes."""
    with matplotlib.rc_context(STYLE):
        figure = blank_figure(SMALL_INCHES)
        by_workers, by_size = figure.subplots(1, 2)
        sizes = sorted({task.megabytes for task in rates})
        workers = sorted({task.workers for task in rates})
        for way, line in LOOKS.items():
            for size, color in zip(sizes, PALETTE):
                there = [each for each in workers if Task(way, each, size) in rates]
                gigabytes = [2e-3 * size * rates[Task(way, each, size)] for each in there]
                label = f"{size:g} MB" if way == "engine" else None
                by_workers.plot(there, gigabytes, line, color=color, marker="o", label=label)
            for count, color in zip(workers, PALETTE):
                known = [size for size in sizes if Task(way, count, size) in rates]
                pushes = [rates[Task(way, count, size)] for size in known]
                label = f"workers: {count}" if way == "engine" else None
                by_size.plot(known, pushes, line, color=color, marker="o", label=label)
        by_workers.set(title="GB/s", xlabel="workers", ylim=(0.0, None))
        by_workers.set_xticks(workers)
        by_size.set(title="Pushes/s", xlabel="MB of parameters")
        by_size.set_yscale("log")
        _plain_log(by_size, sizes)
        for panel in (by_workers, by_size):
            labels = panel.get_legend_handles_labels()[1]
            panel.legend(**LEGEND | {"ncols": len(labels), "columnspacing": 1.0})
        add_note(figure, note)
    return figure


def _plain_log(panel: Axes, marks: list[float]) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(marks))
    panel.xaxis.set_minor_locator(NullLocator())
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def main() -> None:
    """Reads a file of samples and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    lines = options.samples.read_text().splitlines()
    note = "Solid: the engine. Dotted: the transport alone, which steps and checks nothing."
    draw(pushes_per_second(lines), note).savefig(options.picture)


if __name__ == "__main__":
    main()
