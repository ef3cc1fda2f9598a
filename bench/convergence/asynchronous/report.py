"""Tables and pictures of the trainings with stale gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bench.convergence.asynchronous.contestants import CONTESTANTS
from bench.convergence.asynchronous.training import (
    ARRANGEMENTS,
    COMPARED,
    GENERALIZING,
    GRADIENTS,
    POINTS,
    Cell,
    Outcome,
    best,
    generalizing,
    taking_part,
)
from yfkernels.lab.style import PALETTE, STYLE, make_log

Outcomes = Mapping[Cell, Outcome]
STALE = ("round-robin", "memoryless")
RIVAL = "adamw"
WINDOW = 3  # points in the running mean of a course
LOOKS: dict[str, dict[str, Any]] = {
    "yellowfin": {"color": PALETTE[0], "lw": 2.4},
    "yellowfin-half": {"color": PALETTE[0], "lw": 1.4, "ls": "-."},
    "yellowfin-open": {"color": PALETTE[0], "lw": 1.4, "ls": ":"},
    "yellowfin-paper": {"color": PALETTE[0], "lw": 1.4, "ls": "--"},
    "adamw": {"color": PALETTE[1], "lw": 2.0},
    "momentum": {"color": PALETTE[3], "lw": 1.6},
    "sgd": {"color": PALETTE[4], "lw": 1.6},
}
DOTS_PER_INCH = 110


def write(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Writes `trainings.md`, `losses.png`, `momentum.png`, and `large-lr.png` if it is measured."""
    tables = folder / "trainings.md"
    tables.write_text("\n".join(_tables(outcomes)) + "\n")
    pictures = {"losses.png": draw_losses, "momentum.png": draw_momentum}
    if _has_lrs(outcomes):
        pictures["large-lr.png"] = draw_lrs
    for name, draw in pictures.items():
        draw(outcomes).savefig(folder / name)
    return [tables, *(folder / name for name in pictures)]


def all_seeds(outcomes: Outcomes, cell: Cell) -> list[Outcome]:
    """The trainings that differ from one in nothing but the seed."""
    return [o for c, o in outcomes.items() if replace(c, seed=cell.seed) == cell]


def smoothed(outcome: Outcome) -> NDArray[np.float64]:
    """The course of the loss, each point the mean of it and two before."""
    losses = np.array([*outcome.losses, *[math.inf] * (POINTS - len(outcome.losses))])
    padded = np.concatenate([np.full(WINDOW - 1, losses[0]), losses])
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = sliding_window_view(padded, WINDOW).mean(1)
    return means


def middle_course(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Of the smoothed losses of several seeds the median at each point."""
    course: NDArray[np.float64] = np.median([smoothed(each) for each in outcomes], 0)
    return course


def speed(ours: NDArray[np.float64], theirs: NDArray[np.float64], share: float) -> str:
    """Gradients of a rival's course to `share` times its lowest loss, over ours to the same."""
    target = share * theirs.min()
    if not (ours <= target).any():
        return "never"
    return f"{(np.argmax(theirs <= target) + 1) / (np.argmax(ours <= target) + 1):.2f}"


def _tables(outcomes: Outcomes) -> Iterator[str]:
    seeds = len({cell.seed for cell in outcomes})
    yield f"Medians and ranges over {seeds} seeds; the grid's best learning rate is chosen by the"
    yield "final training loss with the first one. Speed: gradients that AdamW needs to twice its"
    yield "lowest smoothed loss and to the lowest itself (medians), over those that this one needs."
    for task in COMPARED:
        yield f"\n### {task}, {GRADIENTS[task]} gradients\n"
        yield (
            "| arrangement | optimizer | lr | final training loss | test loss | test accuracy | "
            "diverged | speed to twice | to the lowest |"
        )
        yield "|:--|:--|--:|--:|--:|--:|--:|--:|--:|"
        for arrangement, told in ARRANGEMENTS.items():
            rival = all_seeds(outcomes, best(outcomes, task, arrangement, RIVAL))
            theirs = middle_course(rival)
            for name in taking_part(arrangement):
                cell = best(outcomes, task, arrangement, name)
                found = all_seeds(outcomes, cell)
                ours = middle_course(found)
                numbers = [
                    f"{cell.lr:g}" if cell.lr else "",
                    _range(found, lambda o: o.final_loss, ".3g"),
                    _range(found, lambda o: o.test_loss, ".3g"),
                    _range(found, lambda o: o.test_accuracy, ".3f"),
                    f"{sum(each.diverged for each in found)} of {len(found)}",
                    speed(ours, theirs, 2.0),
                    speed(ours, theirs, 1.0),
                ]
                yield f"| {told} | {CONTESTANTS[name].label} | " + " | ".join(numbers) + " |"
    if not _has_lrs(outcomes):
        return
    yield "\n### Plain SGD by learning rate: final training loss, test accuracy\n"
    lrs = CONTESTANTS["sgd"].lrs
    yield "| task | arrangement | " + " | ".join(f"lr {lr:g}" for lr in lrs) + " |"
    yield "|:--|:--|" + "--:|" * len(lrs)
    for task in GENERALIZING:
        for arrangement in ("round-robin", "sequential"):
            cells = [all_seeds(outcomes, Cell(task, arrangement, "sgd", lr, 0)) for lr in lrs]
            numbers = [
                f"{_middle(each, lambda o: o.final_loss):.3g}, "
                f"{_middle(each, lambda o: o.test_accuracy):.3f}"
                for each in cells
            ]
            yield f"| {task} | {ARRANGEMENTS[arrangement]} | " + " | ".join(numbers) + " |"


def _has_lrs(outcomes: Outcomes) -> bool:
    """Whether plain SGD has been trained with every learning rate, with the same seeds."""
    seeds = len({cell.seed for cell in outcomes})
    return all(cell in outcomes for cell in generalizing(seeds))


def _middle(found: Sequence[Outcome], measure: Callable[[Outcome], float]) -> float:
    return median(map(measure, found)) if found else math.nan


def _range(found: Sequence[Outcome], measure: Callable[[Outcome], float], form: str) -> str:
    values = sorted(map(measure, found))
    low, middle, high = (format(v, form) for v in (values[0], median(values), values[-1]))
    return f"{middle} ({low} to {high})"


def draw_losses(outcomes: Outcomes) -> Figure:
    """The training loss over the gradients: medians, and the range of two."""
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(11.0, 6.6), dpi=DOTS_PER_INCH, layout="constrained")
        panels = figure.subplots(len(STALE), len(COMPARED), squeeze=False)
        for row, arrangement in zip(panels, STALE):
            for axes, task in zip(row, COMPARED):
                _draw_losses(axes, outcomes, task, arrangement)
                axes.set_title(f"{task}, {ARRANGEMENTS[arrangement]}", fontsize=9)
                axes.set_xlabel("gradients")
            row[0].set_ylabel("training loss")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _draw_losses(axes: Axes, outcomes: Outcomes, task: str, arrangement: str) -> None:
    at = (np.arange(POINTS) + 1) * GRADIENTS[task] / POINTS
    shown = []
    alone = best(outcomes, task, "sequential", "yellowfin")
    course = middle_course(all_seeds(outcomes, alone))
    axes.plot(at, course, color=PALETTE[2], lw=1.4, label="YellowFin, one worker")
    for name, look in LOOKS.items():
        cell = best(outcomes, task, arrangement, name)
        courses = np.array([smoothed(each) for each in all_seeds(outcomes, cell)])
        middle = np.median(courses, 0)
        axes.plot(at, middle, label=CONTESTANTS[name].label, **look)
        if name in ("yellowfin", RIVAL):
            low, high = courses.min(0), courses.max(0)
            axes.fill_between(at, low, high, color=look["color"], alpha=0.15, lw=0)
            shown.append(middle)
    values = np.concatenate(shown)
    make_log(axes, values)
    axes.set_ylim(0.7 * values.min(), 1.6 * values.max())  # what diverges leaves at the top


def draw_momentum(outcomes: Outcomes) -> Figure:
    """Target, reading and what was set, of the three loops."""
    loops = ("yellowfin", "yellowfin-paper", "yellowfin-open")
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(11.0, 6.6), dpi=DOTS_PER_INCH, layout="constrained")
        panels = figure.subplots(len(COMPARED), len(loops), sharey=True, squeeze=False)
        for row, task in zip(panels, COMPARED):
            for axes, name in zip(row, loops):
                outcome = outcomes[Cell(task, "round-robin", name, 0.0, 0)]
                at = (np.arange(len(outcome.momenta)) + 1) * GRADIENTS[task] / POINTS
                axes.plot(at, outcome.totals, color=PALETTE[2], lw=1.0, label="total, as read")
                axes.plot(at, outcome.targets, color=PALETTE[1], lw=2.0, label="target")
                axes.plot(at, outcome.momenta, color=PALETTE[0], lw=2.0, label="algorithmic")
                axes.set_title(f"{task}, {CONTESTANTS[name].label}", fontsize=9)
                axes.set_xlabel("gradients")
                axes.set_ylim(-1.05, 1.05)
            row[0].set_ylabel("momentum")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def draw_lrs(outcomes: Outcomes) -> Figure:
    """Plain SGD's test accuracy and final loss against the learning rate, stale and not."""
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(11.0, 3.6), dpi=DOTS_PER_INCH, layout="constrained")
        panels = figure.subplots(1, 2 * len(GENERALIZING), squeeze=False)[0]
        lrs = CONTESTANTS["sgd"].lrs
        for place, task in enumerate(GENERALIZING):
            for arrangement, color in (("round-robin", PALETTE[0]), ("sequential", PALETTE[2])):
                found = [all_seeds(outcomes, Cell(task, arrangement, "sgd", lr, 0)) for lr in lrs]
                label = ARRANGEMENTS[arrangement]
                for axes, measure in (
                    (panels[2 * place], lambda o: o.test_accuracy),
                    (panels[2 * place + 1], lambda o: o.final_loss),
                ):
                    values = np.array([[measure(o) for o in each] for each in found])
                    values[~np.isfinite(values)] = np.nan
                    middle = np.median(values, 1)
                    axes.plot(lrs, middle, color=color, marker="o", ms=3, label=label)
                    axes.fill_between(
                        lrs, values.min(1), values.max(1), color=color, alpha=0.15, lw=0
                    )
                    axes.set_xscale("log")
                    axes.set_xlabel("learning rate")
            panels[2 * place].set_title(f"{task}: test accuracy", fontsize=9)
            panels[2 * place + 1].set_title(f"{task}: final training loss", fontsize=9)
            panels[2 * place + 1].set_yscale("log")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
