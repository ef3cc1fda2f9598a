"""Recorder and Series."""

from __future__ import annotations

import math

import numpy as np
import pytest

from yfkernels.lab.recorder import Recorder, Series


def series(values: list[float]) -> Series:
    return Series(np.arange(1, len(values) + 1), np.array(values))


def test_keeps_what_it_is_given() -> None:
    recorder = Recorder()
    recorder.record(1, {"lr": 0.5, "momentum": 0.0})
    recorder.record(2, {"lr": 0.25, "momentum": 0.9})
    assert recorder["lr"].steps.tolist() == [1, 2]
    assert recorder["lr"].values.tolist() == [0.5, 0.25]
    assert recorder["momentum"].values.tolist() == [0.0, 0.9]


def test_names_may_be_recorded_at_different_steps() -> None:
    recorder = Recorder()
    for step in range(1, 5):
        recorder.record(step, {"loss": 1.0 / step})
        if step % 2 == 0:
            recorder.record(step, {"accuracy": 0.1 * step})
    assert recorder["loss"].steps.tolist() == [1, 2, 3, 4]
    assert recorder["accuracy"].steps.tolist() == [2, 4]


def test_knows_its_names() -> None:
    recorder = Recorder()
    recorder.record(1, {"lr": 1.0})
    assert "lr" in recorder
    assert "momentum" not in recorder


@pytest.mark.parametrize("step", [4, 5])
def test_refuses_a_step_that_does_not_grow(step: int) -> None:
    recorder = Recorder()
    recorder.record(5, {"lr": 1.0})
    with pytest.raises(ValueError, match=rf"step {step} of 'lr' .* step 5"):
        recorder.record(step, {"loss": 2.0, "lr": 1.0})
    assert "loss" not in recorder


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    recorder = Recorder()
    with pytest.raises(KeyError, match="recorded: nothing"):
        recorder["lr"]
    recorder.record(1, {"loss": 1.0, "momentum": 0.9})
    with pytest.raises(KeyError, match="no series 'lr'; recorded: loss, momentum"):
        recorder["lr"]


def test_smoothing_is_a_trailing_mean() -> None:
    smooth = series([4.0, 2.0, 6.0, 1.0, 2.0]).smoothed(3)
    assert smooth.values.tolist() == [4.0, 3.0, 4.0, 3.0, 3.0]
    assert smooth.steps.tolist() == [1, 2, 3, 4, 5]


def test_smoothing_over_one_step_changes_nothing() -> None:
    assert series([3.0, 1.0, 2.0]).smoothed(1).values.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("spike", [math.nan, math.inf, 1e300])
def test_smoothing_forgets_a_spike_once_it_left_the_window(spike: float) -> None:
    smooth = series([1.0, spike, 1.0, 1.0, 1.0]).smoothed(2)
    assert smooth.values[3:].tolist() == [1.0, 1.0]


def test_first_step_at_most() -> None:
    recorder = Recorder()
    for step, value in [(10, 3.0), (20, math.nan), (30, 0.5), (40, 0.1)]:
        recorder.record(step, {"loss": value})
    assert recorder["loss"].first_step_at_most(0.5) == 30
    assert recorder["loss"].first_step_at_most(0.05) is None
