"""The comparison figure: what is drawn in which panel, and that it can be written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.image import imread

from yfkernels.lab.plots import mean_of, plot_batch_sizes, plot_comparison
from yfkernels.lab.recorder import Recorder
from yfkernels.lab.style import PALETTE

LOSS, ACCURACY, LR, MOMENTUM, CURVATURE = range(5)
STEPS = 60


def tuned(factor: float = 1.0) -> Recorder:
    recorder = Recorder()
    for step in range(1, STEPS + 1):
        recorder.record(
            step,
            {
                "loss": factor * 2.0 / step,
                "lr": factor * 1e-4 * step,
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
    figure = plot_comparison({"tuned": [tuned()]}, title="t")
    assert lines(figure) == [2, 1, 1, 1, 3]
    assert len(figure.axes[CURVATURE].collections) == 1


def test_a_panel_without_data_is_left_out() -> None:
    figure = plot_comparison({"fixed": [fixed()]}, title="t")
    assert lines(figure) == [2]
    figure = plot_comparison({"fixed": [fixed()], "tuned": [tuned()]}, title="t")
    assert lines(figure) == [4, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (["lr"], ["Step size"]),
        (["lr", "momentum"], ["Step size", "Momentum"]),
        (["test_accuracy", "lr"], ["Test accuracy", "Step size"]),
    ],
)
def test_the_panels_fill_the_figure(names: list[str], titles: list[str]) -> None:
    recorder = fixed()
    recorder.record(STEPS + 1, {"loss": 1.0, **dict.fromkeys(names, 0.5)})
    figure = plot_comparison({"one": [recorder]}, title="t")
    _loss, *others = figure.axes
    assert [panel.get_title(loc="left") for panel in others] == titles
    figure.draw_without_rendering()
    rights = {round(panel.get_position().y0, 3): panel.get_position().x1 for panel in figure.axes}
    assert len(rights) == 2
    assert all(right > 0.97 for right in rights.values())


@pytest.mark.parametrize(("window", "words"), [(1, "1 step)"), (4, "4 steps)")])
def test_the_title_says_how_many_steps_are_averaged(window: int, words: str) -> None:
    figure = plot_comparison({"fixed": [fixed()]}, title="t", smoothing=window)
    assert figure.axes[LOSS].get_title(loc="left").endswith(f"mean of the last {words}")


def test_values_are_drawn_as_recorded() -> None:
    recorder = tuned()
    figure = plot_comparison({"tuned": [recorder]}, title="t", smoothing=5)
    raw, smooth = figure.axes[LOSS].lines
    assert raw.get_ydata().tolist() == recorder["loss"].values.tolist()
    assert smooth.get_ydata().tolist() == recorder["loss"].smoothed(5).values.tolist()
    (momentum,) = figure.axes[MOMENTUM].lines
    assert momentum.get_ydata().tolist() == recorder["momentum"].values.tolist()


def test_scales_fit_the_quantities() -> None:
    figure = plot_comparison({"tuned": [tuned()]}, title="t")
    scales = [axes.get_yscale() for axes in figure.axes]
    assert scales == ["log", "linear", "log", "linear", "log"]
    assert all(axes.get_title(loc="left") and axes.get_ylabel() for axes in figure.axes)


def test_accuracies_keep_their_digits() -> None:
    recorders = [tuned(), fixed()]
    for step, accuracy in ((1, 0.84), (STEPS, 0.995)):
        recorders[1].record(step, {"test_accuracy": accuracy})
    figure = plot_comparison({"tuned": recorders[:1], "fixed": recorders[1:]}, title="t")
    panel = figure.axes[ACCURACY]
    panel.set_yticks([0.925, 0.95, 0.975, 1.0])
    figure.draw_without_rendering()
    marks = [text.get_text() for text in panel.get_yticklabels()]
    assert marks == ["92.5%", "95%", "97.5%", "100%"]


def test_legend_keeps_the_order_and_stands_outside_the_panels() -> None:
    figure = plot_comparison({"first": [tuned()], "second": [fixed()]}, title="A title")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first", "second"]
    assert legend.get_title().get_text() == "A title"
    figure.draw_without_rendering()
    below = legend.get_window_extent().y0
    assert all(axes.get_tightbbox().y1 <= below for axes in figure.axes)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 3e38])
def test_a_diverged_training_can_be_drawn(tmp_path: Path, loss: float) -> None:
    path = tmp_path / "figure.png"
    plot_comparison({"diverged": [fixed(loss)], "tuned": [tuned()]}, title="t").savefig(path)
    height, width, _ = imread(path).shape
    assert width >= 1200
    assert height >= 700


def test_of_several_seeds_mean_and_range_are_drawn() -> None:
    figure = plot_comparison({"both": [tuned(), tuned(2.0)]}, title="t", smoothing=5)
    assert lines(figure) == [1, 1, 1, 1, 3]
    (line,) = figure.axes[LOSS].lines
    lows = tuned()["loss"].smoothed(5).values
    np.testing.assert_allclose(line.get_ydata(), 1.5 * lows)
    (band,) = figure.axes[LOSS].collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(lows.min())
    assert corners[:, 1].max() == pytest.approx(2.0 * lows.max())
    (rates,) = figure.axes[LR].lines
    np.testing.assert_allclose(rates.get_ydata(), 1.5 * tuned()["lr"].values)


def test_mean_is_taken_step_by_step() -> None:
    mean = mean_of([tuned()["loss"], tuned(3.0)["loss"]])
    assert mean.steps.tolist() == list(range(1, STEPS + 1))
    np.testing.assert_allclose(mean.values, 2.0 * tuned()["loss"].values)


def test_more_optimizers_than_colors_stay_apart() -> None:
    count = len(PALETTE) + 2
    figure = plot_comparison({f"number {i}": [fixed()] for i in range(count)}, title="t")
    bold = [line for line in figure.axes[LOSS].lines if line.get_linewidth() > 1.0]
    assert len({(line.get_color(), line.get_linestyle()) for line in bold}) == count
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().x1 <= figure.bbox.x1


@dataclass(frozen=True)
class Ended:
    test_accuracy: float
    train_loss: float


def test_batch_sizes_show_mean_and_range(tmp_path: Path) -> None:
    outcomes = {
        "steady": {32: [Ended(0.98, 0.01), Ended(0.96, 0.03)], 128: [Ended(0.97, 0.02)] * 2},
        "lost": {32: [Ended(0.98, 0.01)] * 2, 128: [Ended(0.1, math.nan), Ended(0.1, 2.3)]},
    }
    figure = plot_batch_sizes(outcomes, title="A title", note="A note")
    errors, losses = figure.axes
    lost, steady = errors.lines  # the first is drawn last
    assert steady.get_xdata().tolist() == lost.get_xdata().tolist() == [32, 128]
    np.testing.assert_allclose(steady.get_ydata(), [0.03, 0.03])
    np.testing.assert_allclose(lost.get_ydata(), [0.02, 0.9])
    np.testing.assert_allclose(losses.lines[1].get_ydata(), [0.02, 0.02])
    corners = errors.collections[1].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(0.02)
    assert corners[:, 1].max() == pytest.approx(0.04)
    assert [text.get_text() for text in errors.get_xticklabels()] == ["32", "128"]
    figure.draw_without_rendering()
    marks = [text.get_text() for text in errors.get_yticklabels()]
    assert {"2%", "5%"} <= set(marks)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["steady", "lost"]
    figure.savefig(tmp_path / "figure.png")


def test_no_wrong_answer_at_all_can_be_drawn(tmp_path: Path) -> None:
    outcomes = {
        "perfect": {32: [Ended(1.0, 0.0)], 64: [Ended(1.0, 0.0)]},
        "nearly": {32: [Ended(0.99, 0.1)], 64: [Ended(1.0, 0.1)]},
    }
    plot_batch_sizes(outcomes, title="t").savefig(tmp_path / "figure.png")
