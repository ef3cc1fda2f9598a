"""The picture of a run: time against traffic at one size, bandwidth achieved at every size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.common.tables import duration, rate
from bench.speed.result import COPY, RaceResult

_INK, _GRAY, _COPY = "#23262b", "#6b7280", "#1f7a6d"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0a8",
    "axes.labelcolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "text.color": _INK,
    "xtick.color": _GRAY,
    "ytick.color": _GRAY,
}
# Ours warm, torch's cold, hollow with clip_grad_norm_; anything else is gray.
_COLORS = {
    "yellowfin-compact": "#7f1d1d",
    "yellowfin-float8": "#b91c1c",
    "yellowfin-diagonal": "#b45f78",
    "yellowfin-robust": "#d98ca0",
    "yellowfin-published": "#c2410c",
    "yellowfin-sketch": "#f0a020",
    "lamb": "#9d174d",
    "lamb-unclipped": "#db5a94",
    "qhm": "#7c4a21",
    "qhadam": "#c9a27a",
    "lamb-bytes": "#6b1138",
    "qhadam-bytes": "#a97f55",
    "adamw-fused": "#1d4e89",
    "adamw-fused+clip": "#1d4e89",
    "sgd-fused": "#5aa0d6",
    "sgd-fused+clip": "#5aa0d6",
}
_MARKERS: dict[str, Any] = {
    "sgd-loop": "v",
    "sgd-foreach": "^",
    "yellowfin-per-tensor": "X",
    "apex-adam": "s",
    "apex-sgd": "h",
    "deepspeed-adam": "D",
    "bnb-adamw8bit": "P",
    "timm-adamw": "<",
    "timm-sgdw": ">",
    "prodigy": "*",
    "apex-lamb": "d",
    "timm-lamb": "p",
    "pytorch-optimizer-lamb": "H",
    "pytorch-optimizer-lamb-loop": "8",
    "torch-optimizer-lamb": (3, 1, 0),
    "qhoptim-qhm": (4, 1, 0),
    "qhoptim-qhadam": (4, 1, 45),
}
_OFF_SCALE = 2.0  # times the median of all: such a point would flatten the others


def draw(
    path: Path,
    device: torch.device,
    environment: Mapping[str, object],
    results: Sequence[RaceResult],
) -> None:
    """Draw both panels into a PNG.

    Args:
        path: the file.
        device: where the race was run.
        environment: what `bench.common.environment.describe` said.
        results: one per size, all of one dtype.
    """
    by_size = sorted(results, key=lambda result: result.size.numel)
    machine = environment.get("gpu") or f"{environment['cpu']}, {environment['threads']} threads"
    timing = "device time from a cold L2" if device.type == "cuda" else "wall time"
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12.5, 5.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.2))
        _draw_time(left, by_size[-1])
        _draw_bandwidth(right, by_size)
        handles, labels = right.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8.5
        )
        figure.suptitle(
            f"{machine}  ·  {results[0].dtype_name}  ·  torch {environment['torch']}  ·  "
            f"medians of {timing}",
            fontsize=8.5,
            color=_GRAY,
        )
        figure.savefig(path, dpi=160, bbox_inches="tight", pad_inches=0.25)


def _draw_time(axes: Axes, result: RaceResult) -> None:
    """Time of a step against bytes per parameter, and the line of a copy of as many bytes."""
    keys = _plain_entrants(result)
    bytes_per_param = {key: result.bytes_per_param(key) for key in keys}
    times = {key: result.seconds(key) * 1e3 for key in keys}
    ceiling = _OFF_SCALE * median(times.values())
    shown = [key for key in keys if times[key] <= ceiling]
    reach = 1.1 * max(bytes_per_param[key] for key in shown)
    copy_time = result.size.numel / result.gigabytes_per_second(COPY) / 1e6  # ms per byte per param

    axes.plot([0, reach], [0, reach * copy_time], color=_COPY, linewidth=1.5, zorder=1)
    for key in shown:
        low, high = result.quartiles(key)
        axes.vlines(bytes_per_param[key], low * 1e3, high * 1e3, color=_color(key), linewidth=1.2)
        _mark(axes, key, bytes_per_param[key], times[key])
    beyond = [
        f"{result.entrants[key].label}: {bytes_per_param[key]} bytes, {duration(times[key] / 1e3)}"
        for key in sorted(set(keys) - set(shown), key=times.__getitem__)
    ]
    if beyond:
        axes.annotate(
            "\n".join(["off the scale", *beyond]),
            (0.99, 0.02),
            xycoords="axes fraction",
            horizontalalignment="right",
            fontsize=7.5,
            color=_GRAY,
        )
    top = 1.2 * max(times[key] for key in shown)
    axes.annotate(
        f"copy, {rate(result.gigabytes_per_second(COPY))}",
        (0.35 * top / copy_time, 0.35 * top),
        xytext=(9, -9),
        textcoords="offset points",
        color=_COPY,
    )
    axes.set_xlim(0, reach)
    axes.set_ylim(0, top)
    axes.set_xlabel("bytes read and written per parameter")
    axes.set_ylabel("time of a step, ms")
    axes.set_title(f"Time against traffic: {result.size.description}")


def _draw_bandwidth(axes: Axes, results: Sequence[RaceResult]) -> None:
    """One row a size, one dot a contestant."""
    copy_speed = median(result.gigabytes_per_second(COPY) for result in results)
    axes.axvline(copy_speed, color=_COPY, linewidth=1.5, zorder=1)
    axes.annotate(
        f"copy, {rate(copy_speed)}",
        (copy_speed, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        horizontalalignment="center",
        color=_COPY,
    )
    for row, result in enumerate(results):
        keys = _plain_entrants(result)
        speeds = {key: result.gigabytes_per_second(key) for key in keys}
        axes.hlines(
            row, min(speeds.values()), max(speeds.values()), color="#d5d8dd", linewidth=5, zorder=0
        )
        for key in keys:
            _mark(
                axes, key, speeds[key], row, label=result.entrants[key].label if not row else None
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(results)), [result.size.description for result in results])
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="#eceef1", zorder=0)
    axes.set_axisbelow(True)
    axes.set_ylim(-0.6, len(results) - 0.4)
    axes.set_xlabel("counted bytes / time, GB/s")
    axes.set_title("Bandwidth achieved")


def _plain_entrants(result: RaceResult) -> list[str]:
    return [key for key, entrant in result.entrants.items() if entrant.mode == "eager"]


def _color(key: str) -> str:
    return _COLORS.get(key, _GRAY)


def _mark(axes: Axes, key: str, x: float, y: float, label: str | None = None) -> None:
    color = _color(key)
    axes.scatter(
        x,
        y,
        s=46,
        marker=_MARKERS.get(key, "o"),
        color="white" if key.endswith("+clip") else color,
        edgecolor=color,
        linewidth=1.4,
        label=label,
        zorder=3,
    )
