"""The estimator of total momentum: the readings of the specification, and what spoils ratios."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from asynchronous.quadratic import Quadratic
from torch import Tensor

from yfkernels.asynchronous import TotalMomentum
from yfkernels.asynchronous.engines.simulator import fixed

CURVATURES = torch.linspace(0.5, 1.0, 101)


def readings(run: Quadratic, lr: float, delay: int, pushes: int) -> list[float | None]:
    """What the estimator says after every push."""
    total = TotalMomentum(run.server.buffers.parameters, max_staleness=delay)
    found = []
    for record in run.simulator.steps(fixed(delay, pushes)):
        own = -lr * total.sampled(run.server.gradients)
        total.record(run.server.buffers.parameters)
        found.append(total.estimate(own, record.staleness))
    return found


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, -0.3])
def test_without_delay_it_reads_the_momentum(momentum: float) -> None:
    found = readings(Quadratic(CURVATURES, 0.02, momentum), 0.02, delay=0, pushes=40)
    assert found[0] is None  # nothing has moved before
    assert found[1:] == pytest.approx([momentum] * 39, rel=0, abs=1e-12)


@pytest.mark.parametrize(
    ("delay", "push", "reading"),
    [
        (1, 400, 0.015),
        (2, 400, 0.030236),
        (4, 400, 0.061479),
        (8, 400, 0.127632),
        (15, 80, 0.260976),
        (15, 400, 0.261051),
    ],
)
def test_a_delay_reads_as_momentum(delay: int, push: int, reading: float) -> None:
    """At a delay of 15 the specification's figure is that of the 80th push; it settles later."""
    found = readings(Quadratic(CURVATURES, 0.02), 0.02, delay, push + 1)
    assert found[push] == pytest.approx(reading, rel=0, abs=6e-7)


@pytest.mark.parametrize("delay", [1, 2, 4, 8, 15])
def test_where_the_readings_settle(delay: int) -> None:
    """z (z - 1 + alpha h) / (z - 1), z being the largest root of z^(tau+1) - z^tau + alpha h."""
    product = 0.02 * 0.75  # the median of alpha h
    roots = np.roots([1.0, -1.0, *[0.0] * (delay - 1), product])
    z = roots[np.abs(roots).argmax()].real
    found = readings(Quadratic(CURVATURES, 0.02), 0.02, delay, 600)
    assert found[-1] == pytest.approx(z * (z - 1.0 + product) / (z - 1.0), rel=1e-9)


def test_a_metric_of_each_coordinate(rng: np.random.Generator) -> None:
    """In Adam's metric the gradient's own part of a move is -lr g / q, as it was applied."""
    x, metric = torch.from_numpy(rng.normal(size=200)), torch.from_numpy(rng.uniform(1, 100, 200))
    total, move = TotalMomentum([x], max_staleness=0), torch.zeros_like(x)
    for _ in range(3):
        own = -0.1 * x / metric
        move = 0.7 * move + own
        x = x + move
        total.record([x])
    assert total.estimate(own, 0) == pytest.approx(0.7, rel=0, abs=1e-12)


def three_moves(first: Tensor, second: Tensor, **options: int) -> TotalMomentum:
    """An estimator that has seen x move by `first` and then by `second`, from 1."""
    x = torch.ones_like(first)
    total = TotalMomentum([x], max_staleness=0, **options)
    for move in (first, second):
        x = x + move
        total.record([x])
    return total


def test_coordinates_that_do_not_move_are_left_out(rng: np.random.Generator) -> None:
    """An embedding's rows: nine of ten have no move, or one of a rounding."""
    first = torch.from_numpy(rng.uniform(0.01, 0.1, 1000))
    second = 0.4 * first
    still = torch.from_numpy(rng.uniform(size=1000) < 0.9)
    first[still], second[still] = 2e-16, 0.1
    assert three_moves(first, second).estimate(torch.zeros(1000), 0) == pytest.approx(0.4, rel=1e-9)


def test_too_few_moves_are_weighted_by_their_size(rng: np.random.Generator) -> None:
    first = torch.full((1000,), 2e-15, dtype=torch.float64)
    second = torch.from_numpy(rng.normal(size=1000))  # ratios of 1e14 to rounding errors
    first[:5], second[:5] = 0.1, 0.03
    assert three_moves(first, second).estimate(torch.zeros(1000), 0) == pytest.approx(0.3)


def test_a_bad_coordinate_does_not_spoil_the_median() -> None:
    first = torch.full((99,), 0.1, dtype=torch.float64)
    second = 0.6 * first
    second[:40] = 1e6
    second[40] = float("nan")
    assert three_moves(first, second).estimate(torch.zeros(99), 0) == pytest.approx(0.6)


def test_nothing_to_read() -> None:
    total = three_moves(torch.zeros(50), torch.ones(50))
    assert total.estimate(torch.zeros(50), 0) is None  # no move to take a ratio to
    assert total.estimate(torch.zeros(50), 1) is None  # no history


def test_a_sample_of_a_large_model_in_two_dtypes(rng: np.random.Generator) -> None:
    """1600 coordinates of 30,000, none twice, in runs of 25; the reading is theirs."""
    flats = [torch.arange(20_000.0, dtype=torch.float64), torch.arange(20_000.0, 30_000.0)]
    total = TotalMomentum(flats, max_staleness=0, coordinates=1600, seed=int(rng.integers(2**31)))
    places = total.sampled(flats)  # each holds its own number, which both dtypes have exactly
    assert places.dtype == torch.float64
    assert len(places) == len(places.unique()) == 1600
    assert int((places < 20_000).sum()) in range(1040, 1094)  # two thirds
    for factor in (1.0, 0.25):
        flats = [flat + factor for flat in flats]
        total.record(flats)
    assert total.estimate(torch.zeros(1600), 0) == pytest.approx(0.25, abs=1e-5)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="Invalid max_staleness value: -1"):
        TotalMomentum([torch.ones(1)], max_staleness=-1)
    with pytest.raises(ValueError, match="Invalid coordinates value: 0"):
        TotalMomentum([torch.ones(1)], max_staleness=0, coordinates=0)


def test_a_history_goes_on_where_it_was_saved(rng: np.random.Generator) -> None:
    moves = [torch.from_numpy(rng.normal(size=50)) for _ in range(3)]
    whole, resumed = (TotalMomentum([torch.ones(50)], max_staleness=1) for _ in range(2))
    x = torch.ones(50)
    for move in moves:
        x = x + move
        whole.record([x])
    resumed.load_state_dict(whole.state_dict())
    for total in (whole, resumed):
        total.record([x + moves[0]])
    found = resumed.estimate(moves[1], 1)
    assert found is not None
    assert found == whole.estimate(moves[1], 1)
    whole.record([x])
    assert resumed.estimate(moves[1], 1) == found  # each has a history of its own
    assert len(resumed.state_dict()["history"]) == 4  # and it is no longer than it was
