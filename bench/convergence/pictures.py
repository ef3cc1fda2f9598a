"""Pictures of the course of trainings: every loss, and who gets there in how many steps."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.convergence import measures
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.profile import FURTHEST, Profile
from bench.convergence.summary import Summary
from yfkernels.lab.style import PALETTE, STYLE, blank_figure

INCHES = (10.0, 5.6)
DOTS_PER_INCH = 100
COLD = (*(PALETTE[number] for number in (1, 6, 4, 3)), "#332288", "#117733", "#999933", "#661100")
WARM = (PALETTE[0], "#882255", PALETTE[5], PALETTE[2])
DASHES = ("-", "--", ":", "-.")


def draw_curves(summary: Summary, title: str, conditions: str) -> Figure:
    """The running loss of every training: median and range over the seeds.

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
        trained = {
            name: results
            for name, results in summary.results.items()
            if not CONTESTANTS[name].average  # the same trainings again
        }
        traces = [result.trace for rows in trained.values() for result in rows]
        starts = [trace[0] for trace in traces if trace and np.isfinite(trace[0])]
        for name, results in trained.items():
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


def draw_profile(profile: Profile) -> Figure:
    """The share of tasks against tau, the legend in the order of the scores."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        axes = figure.add_subplot()
        looks = _looks()
        for name in profile.ranking():
            color, dash = looks[name]
            width = 2.2 if CONTESTANTS[name].ours else 1.2
            inside = sorted(r for r in profile.ratios(name).values() if r <= FURTHEST)
            taus = [1.0, *inside, FURTHEST]
            shares = [profile.share(name, tau) for tau in taus]
            label = f"{profile.score(name):.2f}  {CONTESTANTS[name].label}"
            axes.step(taus, shares, dash, where="post", color=color, lw=width, label=label)
        axes.set_xlim(1.0, FURTHEST)
        axes.set_ylim(0.0, 1.02)
        axes.set_title("Steps to the loss of tuned AdamW at three quarters of its steps")
        axes.set_xlabel("at most so many times the fewest steps of anyone")
        axes.set_ylabel(f"share of {len(profile.losses)} tasks")
        figure.legend(loc="outside right upper", title="area")
    return figure


def draw_scores(profile: Profile) -> Figure:
    """Bars of the scores, the best on top: ours, others at their defaults, others tuned."""
    names = profile.ranking()[::-1]
    labels = [CONTESTANTS[name].label for name in names]
    scores = [profile.score(name) for name in names]
    ours, defaults, tuned = (
        "ours, nothing tuned",
        "others, nothing tuned",
        "others, tuned on a grid",
    )
    colors = {ours: PALETTE[0], defaults: PALETTE[1], tuned: PALETTE[6]}
    kinds = [
        ours if label.startswith("YellowFin") else tuned if "tuned" in label else defaults
        for label in labels
    ]
    with matplotlib.rc_context(STYLE):
        figure = blank_figure((10.0, 0.28 * len(names) + 1.6))
        axes = figure.add_subplot()
        bars = axes.barh(labels, scores, color=[colors[kind] for kind in kinds], height=0.72)
        axes.bar_label(bars, [f"{score:.2f}" for score in scores], padding=4, fontsize=9)
        axes.set_xlim(0.0, 1.0)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_title("How soon the loss of a tuned AdamW is reached")
        tasks = len(profile.losses)
        axes.set_xlabel(
            f"score over {tasks} tasks; 1: needs the fewest steps of all on each of them"
        )
        handles = [Patch(color=color, label=kind) for kind, color in colors.items()]
        axes.legend(handles=handles, loc="lower right")
    return figure


def _looks() -> dict[str, tuple[str, str]]:
    """Color and line. Ours have warm colors; a family of others shares a cold one."""
    looks, families = {}, dict[str, list[str]]()
    trained = {name: one for name, one in CONTESTANTS.items() if not one.average}
    ours = [name for name, contestant in trained.items() if contestant.ours]
    for name in trained:
        if name in ours:
            number = ours.index(name)
            looks[name] = WARM[number % len(WARM)], DASHES[number // len(WARM) % len(DASHES)]
            continue
        family = families.setdefault(name.partition("-")[0], [])
        number = list(families).index(name.partition("-")[0])
        looks[name] = COLD[number % len(COLD)], DASHES[len(family) % len(DASHES)]
        family.append(name)
    return looks
