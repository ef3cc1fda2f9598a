"""Measures on losses made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.convergence import measures


def test_running_mean_of_few_then_of_a_window() -> None:
    mean = measures.running_mean(np.array([4.0, 2.0, 6.0, 1.0]), window=2)
    assert mean.tolist() == [4.0, 3.0, 4.0, 3.5]


def test_final_loss_is_the_mean_of_the_last_twentieth() -> None:
    losses = np.concatenate([np.full(95, 7.0), [1.0, 2.0, 3.0, 4.0, 5.0]])
    assert measures.final_loss(losses, steps=100) == 3.0


@pytest.mark.parametrize("losses", [np.ones(99), np.append(np.ones(99), np.nan)])
def test_no_final_loss_of_a_training_that_broke_off(losses: measures.Losses) -> None:
    assert math.isinf(measures.final_loss(losses, steps=100))


@pytest.mark.parametrize("steps", [1, 60, 1200, 4000, 20000])
def test_sampled_steps_reach_the_end_and_are_few(steps: int) -> None:
    sampled = measures.sampled_steps(steps)
    assert sampled == sorted(set(sampled))
    assert sampled[-1] == steps
    assert len(sampled) <= 200


def test_sampled_steps_resolve_ratios() -> None:
    sampled = np.array(measures.sampled_steps(4000))
    late = sampled[sampled > 125]
    assert (np.diff(late) / late[:-1]).max() <= 0.04


def test_a_sample_is_the_mean_since_the_last_one() -> None:
    losses = np.arange(4000.0)
    trace = measures.sample(losses, 4000, smoothing=25)
    assert len(trace) == len(measures.sampled_steps(4000))
    assert trace[0] == losses[:5].mean()
    assert trace[-1] == losses[-40:].mean()


def test_smoothing_of_an_epoch_grows_with_the_steps_so_far() -> None:
    losses = np.arange(4000.0)
    at = measures.sampled_steps(4000)
    trace = dict(zip(at, measures.sample(losses, 4000, smoothing=336)))
    assert trace[4000] == losses[-336:].mean()
    assert trace[40] == losses[15:40].mean()
    assert trace[1000] == losses[750:1000].mean()


def test_the_trace_of_a_training_that_broke_off_is_short() -> None:
    assert len(measures.sample(np.ones(12), 4000, smoothing=25)) == 2


def test_no_spikes_in_a_falling_loss() -> None:
    assert measures.spikes(np.geomspace(1, 1e-6, 500), 1) == measures.Spikes(0, 0, 0, 1.0)


def test_spikes_are_counted_and_measured() -> None:
    losses = np.ones(400)
    losses[50:60] = 3.0  # 10 steps
    losses[100:151] = 5.0  # 51 steps
    losses[200:250] = 2.5  # 50 steps
    assert measures.spikes(losses, 1) == measures.Spikes(count=3, long=1, longest=51, highest=5.0)


def test_a_spike_at_the_end_counts() -> None:
    losses = np.concatenate([np.ones(100), np.full(70, 4.0)])
    assert measures.spikes(losses, 1) == measures.Spikes(1, 1, 70, 4.0)


def test_a_spike_is_above_twice_the_minimum_so_far() -> None:
    assert measures.spikes(np.array([1.0, 2.0, 1.0]), 1).count == 0
    assert measures.spikes(np.array([1.0, 2.01, 1.0]), 1).count == 1


def test_one_bad_batch_is_no_spike_where_the_mean_stays() -> None:
    losses = np.ones(400)
    losses[200] = 20.0
    assert measures.spikes(losses, 25).count == 0
    assert measures.spikes(losses, 1).count == 1


def test_a_loss_that_is_no_number_is_a_spike() -> None:
    losses = np.concatenate([np.ones(100), [np.nan]])
    assert measures.spikes(losses, 1).count == 1


def test_diverged() -> None:
    assert not measures.diverged(np.array([1.0, 9.9, 1.0]), 1)
    assert measures.diverged(np.array([1.0, 10.1, 1.0]), 1)
    assert measures.diverged(np.array([1.0, np.inf]), 1)
    assert not measures.diverged(np.array([1.0, 1.0, 25.0]), 3)


def test_steps_to_a_loss() -> None:
    steps = 20  # sampled at 5, 10, 15, 20
    trace = (4.0, 2.0, 3.0, 1.0)
    assert measures.steps_to(trace, steps, 2.0) == 10
    assert measures.steps_to(trace, steps, 1.5) == 20
    assert math.isinf(measures.steps_to(trace, steps, 0.5))


def test_the_lowest_loss_that_both_reach() -> None:
    assert measures.lowest_common((5.0, 1.0, 2.0), (5.0, 3.0, 4.0)) == 3.0
    assert math.isinf(measures.lowest_common((), (1.0,)))
