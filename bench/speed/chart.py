"""Bars of the time of a step, for pages: the median of some runs, beside torch's fused AdamW.

    python -m bench.speed.chart --out docs/results/speed.png bench/results/RUN...

Reads the `summary.json` of each run. What is not in all of them is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from yfkernels.lab.style import PALETTE, STYLE, add_note, blank_figure

RIVAL = "adamw-fused"
OURS, THEIRS = PALETTE[0], PALETTE[2]
# from the top; LAMB, QHM and QHAdam clip nothing unless told to
SHOWN = {
    "yellowfin-compact": "YellowFin, clip included",
    "yellowfin-float8": "YellowFin in float8, clip included",
    "lamb": "LAMB, clip included",
    "lamb-bytes": "LAMB in 8 bits, clip included",
    "qhadam": "QHAdam",
    "qhadam-bytes": "QHAdam in 8 bits",
    "qhm": "QHM",
    "adamw-fused+clip": "AdamW, fused, and clip_grad_norm_",
    "adamw-fused": "AdamW, fused",
    "sgd-fused": "SGD with momentum, fused",
}
SIZES = {"gpt2": "GPT-2: 124M in 148 tensors", "resnet50": "ResNet-50: 26M in 161 tensors"}


def draw(runs: Sequence[Path], out: Path) -> None:
    """Writes a picture with a panel for each of SIZES.

    Raises:
        ValueError: the runs have no contestant in common at a size.
    """
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    with matplotlib.style.context(STYLE):
        figure = blank_figure((10.0, 4.2))
        panels = figure.subplots(1, len(SIZES), sharey=True)
        for panel, (size, title) in zip(panels, SIZES.items()):
            _draw_size(panel, [summary["sizes"][size]["contestants"] for summary in summaries])
            panel.set_title(title)
        add_note(figure, _conditions(summaries))
        figure.savefig(out)


def _draw_size(panel: Axes, runs: Sequence[dict[str, Any]]) -> None:
    shown = [key for key in reversed(SHOWN) if all(key in run for run in runs)]
    if not shown:
        raise ValueError("the runs have no contestant in common")
    middles = [median(_ratio(run[key]) for run in runs) for key in shown]
    colors = [THEIRS if key.startswith(("adamw", "sgd")) else OURS for key in shown]
    bars = panel.barh([SHOWN[key] for key in shown], middles, color=colors, height=0.7)
    labels = [f"{middle:.2f}" for middle in middles]
    panel.bar_label(bars, labels, padding=-30, fontsize=9, color="white", weight="bold")
    panel.axvline(1.0, color=THEIRS, linewidth=1.0, zorder=0.5)
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MultipleLocator(0.5))
    panel.set_xlabel("time of a step / fused AdamW's")


def _ratio(timed: dict[str, Any]) -> float:
    """As in the tables: the median of ratios, round by round."""
    assert timed["time_ratio_to"] in (RIVAL, None), timed
    return float(timed["time_ratio"] or 1.0)


def _conditions(summaries: Sequence[dict[str, Any]]) -> str:
    environment = summaries[0]["environment"]
    runs = f"median of {len(summaries)} runs" if len(summaries) > 1 else "one run"
    commits = dict.fromkeys(summary["environment"]["commit"][:7] for summary in summaries)
    return (
        f"{runs}, float32, {environment['threads']} threads, {environment['cpu']}, torch "
        f"{environment['torch']}, commit {', '.join(commits)}; shorter is faster"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a summary.json")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    options = parser.parse_args(argv)
    draw(options.runs, options.out)


if __name__ == "__main__":
    main()
