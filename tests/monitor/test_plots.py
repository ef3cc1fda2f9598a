"""The comparison figure: what is drawn in which panel, and that it can be written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.image import imread

from yfkernels.monitor.plots import plot_comparison
from yfkernels.monitor.recorder import Recorder

LOSS, ACCURACY, LR, MOMENTUM, CURVATURE = range(5)
STEPS = 60


def tuned() -> Recorder:
    recorder = Recorder()
    for step in range(1, STEPS + 1):
        recorder.record(
            step,
            {
                "loss": 2.0 / step,
                "lr": 1e-4 * step,
                "momentum": step / (STEPS + 1),
                "h_min": 0.1 / step,
                "h_max": 1.0,
                "grad_norm": 0.7,
            },
        )
    recorder.record(STEPS, {"test_accuracy": 0.98})
    return recorder


def fixed(loss: float = 1.0) -> Recorder:
    recorder = Recorder()
    for step in range(1, STEPS + 1):
        recorder.record(step, {"loss": loss})
    return recorder


def lines(figure: Figure) -> list[int]:
    return [len(axes.lines) for axes in figure.axes]


def test_a_tuner_appears_in_every_panel() -> None:
    figure = plot_comparison({"tuned": tuned()}, title="t")
    assert lines(figure) == [2, 1, 1, 1, 3]
    assert len(figure.axes[CURVATURE].collections) == 1


def test_without_tuning_only_the_loss_is_drawn() -> None:
    figure = plot_comparison({"fixed": fixed()}, title="t")
    assert lines(figure) == [2, 0, 0, 0, 0]


def test_values_are_drawn_as_recorded() -> None:
    recorder = tuned()
    figure = plot_comparison({"tuned": recorder}, title="t", smoothing=5)
    raw, smooth = figure.axes[LOSS].lines
    assert raw.get_ydata().tolist() == recorder["loss"].values.tolist()
    assert smooth.get_ydata().tolist() == recorder["loss"].smoothed(5).values.tolist()
    (momentum,) = figure.axes[MOMENTUM].lines
    assert momentum.get_ydata().tolist() == recorder["momentum"].values.tolist()


def test_scales_fit_the_quantities() -> None:
    figure = plot_comparison({"tuned": tuned()}, title="t")
    scales = [axes.get_yscale() for axes in figure.axes]
    assert scales == ["log", "linear", "log", "linear", "log"]
    assert all(axes.get_title(loc="left") and axes.get_ylabel() for axes in figure.axes)


def test_legend_keeps_the_order_and_stands_outside_the_panels() -> None:
    figure = plot_comparison({"first": tuned(), "second": fixed()}, title="A title")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first", "second"]
    assert legend.get_title().get_text() == "A title"
    figure.draw_without_rendering()
    below = legend.get_window_extent().y0
    assert all(axes.get_tightbbox().y1 <= below for axes in figure.axes)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 3e38])
def test_a_diverged_training_can_be_drawn(tmp_path: Path, loss: float) -> None:
    path = tmp_path / "figure.png"
    plot_comparison({"diverged": fixed(loss), "tuned": tuned()}, title="t").savefig(path)
    height, width, _ = imread(path).shape
    assert width >= 1200
    assert height >= 700
