"""Tables and pictures of the trainings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.convergence.online import comparison
from bench.convergence.online.comparison import Outcomes, all_seeds
from bench.convergence.online.training import (
    ALONE,
    BASES,
    FIRST_LRS,
    POINTS,
    STEPS,
    Outcome,
    bases_of,
)
from bench.convergence.tasks import TASKS
from yfkernels.lab.style import PALETTE, STYLE, make_log

LABELS = {
    "hd": "HD",
    "rtho": "RTHO",
    "marthe": "MARTHE",
    "marthe-0.9": "MARTHE, mu = 0.9",
    "staircase": "staircase",
    "exponential": "exponential",
    "cosine-restarts": "cosine restarts",
    "constant": "constant",
}
LOOKS: dict[str, dict[str, Any]] = {
    "hd": {"color": PALETTE[3], "lw": 2.0},
    "rtho": {"color": PALETTE[1], "lw": 2.0},
    "marthe": {"color": PALETTE[0], "lw": 2.4},
    "marthe-0.9": {"color": PALETTE[0], "lw": 2.4, "ls": "--"},
    "staircase": {"color": PALETTE[4], "ls": "--"},
    "exponential": {"color": PALETTE[5], "ls": "--"},
    "cosine-restarts": {"color": PALETTE[6], "ls": "--"},
    "constant": {"color": PALETTE[2], "ls": ":"},
}
BASE_NAMES = {"sgd": "SGD with momentum", "adamw": "AdamW"}
FOLLOWING = ("hd", "rtho", "marthe")
ROWS = 3
DOTS_PER_INCH = 110


def write(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Writes `trainings.md`, `outcomes.png` and `learning-rates.png`; returns their paths."""
    tables = folder / "trainings.md"
    tables.write_text("\n".join(_tables(outcomes)) + "\n")
    pictures = {"outcomes.png": draw_outcomes, "learning-rates.png": draw_learning_rates}
    for name, draw in pictures.items():
        draw(outcomes).savefig(folder / name)
    return [tables, *(folder / name for name in pictures)]


def _tables(outcomes: Outcomes) -> Iterator[str]:
    seeds = len({cell.seed for cell in outcomes})
    yield f"Medians over {seeds} seeds. Diverged: a loss not finite, or ten times the first."
    for title, measure, form in (
        ("Test accuracy (text: share of characters predicted)", _accuracy, ".3f"),
        ("Test loss", lambda outcome: outcome.test_loss, ".3g"),
        ("Training loss, mean of the last 5% of the steps", _final, ".3g"),
    ):
        yield f"\n### {title}\n"
        rates = [f"{BASE_NAMES[base]} from {lr:g}" for base in BASES for lr in FIRST_LRS]
        yield "| task | method | " + " | ".join(rates) + " |"
        yield "|:--|:--|" + "--:|" * len(rates)
        for task in STEPS:
            for method, label in LABELS.items():
                cells = [
                    _number(all_seeds(outcomes, task, base, method, lr), measure, form)
                    for base in BASES
                    for lr in FIRST_LRS
                ]
                yield f"| {task} | {label} | " + " | ".join(cells) + " |"
            alone = _number(all_seeds(outcomes, task, "", ALONE, 0.0), measure, form)
            yield f"| {task} | YellowFin, no lr given | {alone} |" + " |" * (len(rates) - 1)
    yield "\n### Test accuracy: cases in which one is better / neither / worse\n"
    yield "Two-sided Mann-Whitney test, p < 0.05. Left out: where neither reaches 0.3.\n"
    yield from comparison.table(outcomes, LABELS)


def _number(found: Sequence[Outcome], measure: Callable[[Outcome], float], form: str) -> str:
    if not found:
        return ""
    value = median(measure(outcome) for outcome in found)
    return format(value, form) if math.isfinite(value) else "diverged"


def _accuracy(outcome: Outcome) -> float:
    return math.inf if outcome.diverged else outcome.test_accuracy


def _final(outcome: Outcome) -> float:
    return math.inf if outcome.diverged else outcome.final_loss


def draw_outcomes(outcomes: Outcomes) -> Figure:
    """The final training loss against the first learning rate, a panel for each task and base."""
    pairs = [(base, task) for base in BASES for task in STEPS if base in bases_of(task)]
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(11.0, 6.6), dpi=DOTS_PER_INCH, layout="constrained")
        columns = math.ceil(len(pairs) / ROWS)
        panels = figure.subplots(ROWS, columns, sharex=True, squeeze=False)
        for axes, pair in itertools.zip_longest(panels.flat, pairs):
            if pair is None:
                axes.remove()
                continue
            _draw_outcomes(axes, outcomes, *pair)
            axes.set_title(f"{pair[1]}, {BASE_NAMES[pair[0]]}", fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("first lr")
        for axes in panels[:, 0]:
            axes.set_ylabel("final training loss")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _draw_outcomes(axes: Axes, outcomes: Outcomes, base: str, task: str) -> None:
    positions = range(len(FIRST_LRS))
    for method, label in LABELS.items():
        middles = [_median(all_seeds(outcomes, task, base, method, lr)) for lr in FIRST_LRS]
        axes.plot(positions, middles, marker="o", ms=3.5, label=label, **LOOKS[method])
    alone = _median(all_seeds(outcomes, task, "", ALONE, 0.0))
    if math.isfinite(alone):
        axes.axhline(alone, color="black", lw=1.0, label="YellowFin")
    shown = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    if np.isfinite(shown).any():
        make_log(axes, shown)
    axes.set_xticks(positions, [f"{lr:g}" for lr in FIRST_LRS])


def _median(found: Sequence[Outcome]) -> float:
    value = median(map(_final, found)) if found else math.nan
    return value if math.isfinite(value) else math.nan  # a gap


def draw_learning_rates(outcomes: Outcomes) -> Figure:
    """The learning rate over the course of the training, from each of the first ones."""
    shown = [task for task in STEPS if TASKS[task].has_classes][:ROWS]
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(11.0, 6.6), dpi=DOTS_PER_INCH, layout="constrained")
        size = (len(shown), len(FOLLOWING))
        panels = figure.subplots(*size, sharex="row", sharey="row", squeeze=False)
        for row, task in zip(panels, shown):
            for axes, method in zip(row, FOLLOWING):
                _draw_learning_rates(axes, outcomes, task, method)
                axes.set_title(f"{task}, {LABELS[method]}", fontsize=9)
            row[0].set_ylabel("lr")
        for axes in panels[-1]:
            axes.set_xlabel("step")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        title = f"over {BASE_NAMES['sgd']}"
        figure.legend(handles, labels, title=title, loc="outside lower center", ncols=len(labels))
    return figure


def _draw_learning_rates(axes: Axes, outcomes: Outcomes, task: str, method: str) -> None:
    """Median and range over the seeds."""
    at = np.linspace(0.0, STEPS[task], POINTS, endpoint=False)
    for lr, color in zip(FIRST_LRS, (PALETTE[1], PALETTE[0], PALETTE[3])):
        courses = [
            o.lrs for o in all_seeds(outcomes, task, "sgd", method, lr) if len(o.lrs) == POINTS
        ]
        if courses:
            axes.plot(at, np.median(courses, 0), color=color, lw=2.0, label=f"from {lr:g}")
            low, high = np.min(courses, 0), np.max(courses, 0)
            axes.fill_between(at, low, high, color=color, alpha=0.15, lw=0)
            axes.set_yscale("log")
