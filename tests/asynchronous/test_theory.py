"""What theory says about stale gradients, on the simulator: workers, delays, noise; in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from asynchronous.quadratic import Quadratic
from numpy.typing import NDArray

from yfkernels.analysis import (
    best_momentum,
    delayed_excess_loss,
    implicit_momentum,
    stability_limit,
)
from yfkernels.asynchronous.engines.simulator import fixed, in_order, memoryless

Rows = NDArray[np.float64]
DELAYS = (0, 1, 3, 7, 15)
CURVATURES = torch.linspace(0.5, 1.0, 5)
LR = 0.3


def last_moves(order: list[int], momentum: float) -> Rows:
    """The moves of the last three pushes of workers in an order, and x before the last."""
    path = Quadratic(CURVATURES, LR, momentum).path(in_order(order)).numpy()
    return np.stack([*(path[k] - path[k - 1] for k in (-3, -2, -1)), path[-2]])


@pytest.mark.parametrize("momentum", [0.0, 0.5, -0.0375])
@pytest.mark.parametrize(
    ("workers", "q"), [(1, 0.0), (2, 0.5), (4, 0.75), (8, 0.875), (16, 0.9375)]
)
def test_memoryless_workers_act_like_momentum(
    workers: int, q: float, momentum: float, rng: np.random.Generator
) -> None:
    """D+ = (mu + q) D - mu q D_- - (1 - q) alpha grad, averaged over who pushes in the last two.

    All M² continuations of one random past are run, so the average is exact.
    """
    assert implicit_momentum(workers) == q
    past = rng.integers(workers, size=2 * workers + 4).tolist()
    runs = [
        last_moves([*past, *last], momentum) for last in itertools.product(range(workers), repeat=2)
    ]
    before, move, then, x = np.mean(runs, axis=0)
    grad = CURVATURES.numpy() * x
    expected = (momentum + q) * move - momentum * q * before - (1.0 - q) * LR * grad
    np.testing.assert_allclose(then, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("workers", [2, 4, 8, 16])
def test_their_staleness_is_geometric(workers: int) -> None:
    pushes = 40_000
    schedule = np.array(memoryless(workers, pushes, seed=3))
    q = 1.0 - 1.0 / workers
    for staleness in range(2 * workers):
        share = (1.0 - q) * q**staleness
        deviation = math.sqrt(share / pushes)
        assert abs(float((schedule == staleness).mean()) - share) < 6.0 * deviation


def growth(curvatures: torch.Tensor, momentum: float, delay: int, steps: int) -> Rows:
    """By how much ln |x| grows from the middle to the end of a run, for each curvature; lr is 1."""
    path = Quadratic(curvatures, 1.0, momentum).path(fixed(delay, steps)).abs()
    middle, end = path[steps // 4 : steps // 2].amax(0), path[3 * steps // 4 :].amax(0)
    return (end / middle).log().numpy()


@pytest.mark.parametrize(
    ("delay", "momentum", "known"),
    [
        *((delay, 0.0, 2 * math.sin(math.pi / (2 * (2 * delay + 1)))) for delay in DELAYS),
        *((delay, 0.9, known) for delay, known in zip(DELAYS[1:], (0.1, 0.035, 0.016, 0.008))),
    ],
)
def test_where_a_delay_becomes_unstable(delay: int, momentum: float, known: float) -> None:
    """Forty curvatures at once, then forty between the two that the limit lies between."""
    low, high = 0.85 * known, 1.17 * known
    for _ in range(2):
        curvatures = torch.linspace(low, high, 40, dtype=torch.float64)
        first = int((growth(curvatures, momentum, delay, steps=2500) > 0.0).argmax())
        low, high = float(curvatures[first - 1]), float(curvatures[first])
    found = 0.5 * (low + high)
    assert found == pytest.approx(known, rel=1e-3 if momentum == 0.0 else 0.02)
    assert found == pytest.approx(stability_limit(delay, momentum), rel=1e-3)


def variance(products: torch.Tensor, delay: int) -> Rows:
    """Stationary variance of x in units of lr² s²: the sum of squares of the impulse response."""
    run = Quadratic(products, 1.0, start=0.0, push=1.0)
    return run.path(fixed(delay, 3000)).square().sum(0).numpy()


@pytest.mark.parametrize("delay", DELAYS)
def test_stationary_loss_under_noise(delay: int) -> None:
    """a Var = (alpha/2) s² (1 + (tau + 1/2) alpha a + ...), whose next term is of second order."""
    largest = 0.1 / (2 * delay + 1)
    products = torch.tensor([0.5 * largest, largest], dtype=torch.float64)
    exact = products.numpy() * variance(products, delay)  # of a Var / (alpha s²)
    formula = 0.5 * (1.0 + (delay + 0.5) * products.numpy())
    errors = exact / formula - 1.0
    assert errors[1] < 0.01
    assert errors[0] < errors[1] / 3.5
    loss = delayed_excess_loss(products, torch.ones(2), 1.0, delay)  # lr 1, s² 1
    assert loss == pytest.approx(0.5 * float(exact.sum()), rel=0.01)


@pytest.mark.parametrize("delay", [1, 3, 7])
def test_best_momentum(delay: int) -> None:
    """It is negative, and the slowest curvature falls as foretold: little faster than without."""
    curvatures = torch.logspace(math.log10(0.02), 0.0, 17, dtype=torch.float64)
    best = best_momentum(0.02, 1.0, delay)
    assert best.momentum < -0.5
    path = Quadratic(curvatures, best.lr, best.momentum).path(fixed(delay, 2400)).abs()
    falls = (path[-200:].amax(0) / path[1000:1200].amax(0)) ** (1.0 / 1200)
    assert float(falls.nan_to_num().max()) == pytest.approx(best.rate, abs=3e-4)
