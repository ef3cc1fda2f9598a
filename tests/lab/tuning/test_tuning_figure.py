"""The figure of a tuning run: panels, axes, and that odd values do not stop it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from yfkernels.lab.tuning.figure import plot_tuning

STEPS = 10  # an epoch


def rows(count: int, **values: Any) -> list[dict[str, float | None]]:
    """Of every step; values are constants or functions of the step."""
    made = []
    for step in range(1, count + 1):
        ends = step % STEPS == 0
        row: dict[str, float | None] = {"step": step, "epoch": 1, "loss": 1.0 / step, "lr": 0.1}
        row |= {"mu": None, "hyper_lr": None}
        for name in ("train_loss", "validation_loss", "validation_accuracy", "test_accuracy"):
            row[name] = 0.5 if ends else None
        for name, value in values.items():
            row[name] = value(step) if callable(value) else value
        made.append(row)
    return made


def drawn(made: list[dict[str, float | None]]) -> Figure:
    return plot_tuning(made, steps_per_epoch=STEPS, title="t", note="n")


@pytest.mark.parametrize(
    ("values", "panels"),
    [
        ({}, ["lr"]),
        ({"hyper_lr": 0.02}, ["lr"]),
        ({"hyper_lr": lambda step: 0.01 * step}, ["lr", "hyper_lr"]),
        ({"hyper_lr": lambda step: 0.01 * step, "mu": 0.5}, ["lr", "mu", "hyper_lr"]),
    ],
)
def test_panels_are_those_that_have_something_to_show(
    values: dict[str, Any], panels: list[str]
) -> None:
    figure = drawn(rows(30, **values))
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == panels
    assert [axes.get_title("left") for axes in figure.axes[:2]] == ["Loss", "Accuracy"]


def test_everything_is_over_epochs() -> None:
    figure = drawn(rows(30, mu=0.5))
    for axes in figure.axes:
        assert axes.get_xlabel() == "epoch"
        assert axes.get_xlim() == pytest.approx((0.0, 3.0), abs=0.1)
        assert max(axes.lines[-1].get_xdata()) == 3.0


@pytest.mark.parametrize(
    ("lr", "scale"),
    [
        (0.1, "linear"),
        (lambda step: 0.1 + 0.001 * step, "linear"),
        (lambda step: 0.1 * 0.5**step, "log"),
        (lambda step: 0.1 if step < 20 else 0.0, "linear"),
    ],
)
def test_an_axis_is_logarithmic_where_that_shows_more(lr: Any, scale: str) -> None:
    axes = drawn(rows(30, lr=lr)).axes[2]
    assert axes.get_yscale() == scale
    assert scale == "log" or axes.get_ylim()[0] == 0.0


def test_mu_is_averaged_over_an_epoch() -> None:
    thin, bold = drawn(rows(30, mu=lambda step: step % 2)).axes[3].lines
    assert set(thin.get_ydata()) == {0.0, 1.0}
    assert bold.get_ydata()[STEPS:] == pytest.approx(0.5)
    assert bold.get_linewidth() > thin.get_linewidth()


def test_legends_are_where_no_line_can_be(tmp_path: Path) -> None:
    figure = drawn(rows(30, mu=0.5, hyper_lr=0.02))
    figure.savefig(tmp_path / "figure.png")
    for axes in figure.axes[:2]:
        legend = axes.get_legend()
        assert legend is not None
        box, panel = legend.get_window_extent(), axes.get_window_extent()
        assert box.y0 >= panel.y1
        assert box.x1 <= panel.x1 + 1.0
        title = axes._left_title.get_window_extent()  # type: ignore[attr-defined]
        assert title.x1 < box.x0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "made",
    [
        rows(3),  # interrupted in the first epoch
        rows(1, mu=1.0, hyper_lr=0.0),
        rows(30, loss=math.nan, train_loss=math.nan, validation_loss=math.nan),
        rows(30, loss=math.inf, lr=0.0),
    ],
    ids=["no epoch", "one step", "nan", "lr 0"],
)
def test_odd_runs_are_drawn_without_a_warning(
    tmp_path: Path, made: list[dict[str, float | None]]
) -> None:
    drawn(made).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
