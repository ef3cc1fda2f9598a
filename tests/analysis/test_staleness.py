"""Formulas for stale gradients against simulations of what they describe, in double precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov

from yfkernels.analysis import (
    algorithmic_momentum,
    best_momentum,
    delayed_excess_loss,
    implicit_momentum,
    stability_limit,
)

Vector = NDArray[np.float64]
DELAYS = (0, 1, 3, 7, 15)


def moves(product: float, momentum: float, weights: Vector, steps: int) -> Vector:
    """Mean moves of x on a curvature; `weights[tau]` of its gradients are tau versions old."""
    x = np.zeros(steps + 2)
    x[0] = x[1] = 1.0
    for t in range(1, steps + 1):
        ages = np.arange(min(len(weights), t))
        gradient = float(weights[: len(ages)] @ x[t - ages])  # older ones: none yet
        x[t + 1] = x[t] + momentum * (x[t] - x[t - 1]) - product * gradient
    return np.diff(x[1:])


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("momentum", [0.0, 0.4, -0.0375])
def test_workers_make_momentum(workers: int, momentum: float) -> None:
    """With geometric staleness D <- (mu + q) D - mu q D' - (1 - q) lr grad, step by step."""
    q = implicit_momentum(workers)
    assert q == 1.0 - 1.0 / workers
    product, steps = 0.2, 60
    weights = (1.0 - q) * q ** np.arange(steps + 1)
    mean = moves(product, momentum, weights, steps)
    x, last, before = 1.0, 0.0, 0.0
    for t in range(steps):
        gradient = x
        if t == 0:
            move = -(1.0 - q) * product * gradient
        else:
            move = (momentum + q) * last - momentum * q * before - (1.0 - q) * product * gradient
        assert mean[t] == pytest.approx(move, rel=1e-9, abs=1e-15)
        x, last, before = x + move, move, last


def test_what_is_left_to_set() -> None:
    assert algorithmic_momentum(0.9, 1) == 0.9
    assert [algorithmic_momentum(0.9, workers) for workers in (2, 4, 8, 16)] == pytest.approx(
        [0.4, 0.15, 0.025, -0.0375]
    )


def grows(product: float, momentum: float, delay: int, steps: int = 60_000) -> bool:
    """Whether a run of the recursion does."""
    history = [1.0] * (delay + 2)  # the newest last
    for _ in range(steps):
        new = history[-1] + momentum * (history[-1] - history[-2]) - product * history[-1 - delay]
        history = [*history[1:], new]
        if abs(new) > 1e6:
            return True
    return max(map(abs, history)) > 1.0


@pytest.mark.parametrize("momentum", [0.0, 0.9, -0.5])
@pytest.mark.parametrize("delay", DELAYS)
def test_where_it_becomes_unstable(delay: int, momentum: float) -> None:
    limit = stability_limit(delay, momentum)
    assert not grows(0.995 * limit, momentum, delay)
    assert grows(1.005 * limit, momentum, delay)


def test_limits_of_the_specification() -> None:
    wanted = [2 * math.sin(math.pi / (2 * (2 * delay + 1))) for delay in DELAYS]
    assert [stability_limit(delay) for delay in DELAYS] == pytest.approx(wanted, rel=1e-12)
    of_momentum = [stability_limit(delay, 0.9) for delay in DELAYS[1:]]
    assert of_momentum == pytest.approx([0.1, 0.035, 0.016, 0.008], abs=5e-4)
    assert stability_limit(0, 0.9) == pytest.approx(2 * 1.9)


@pytest.mark.parametrize("delay", DELAYS)
def test_stationary_loss(delay: int, rng: Any) -> None:
    """Against the exact covariance of (x(t), ..., x(t - tau))."""
    curvature, noise = rng.uniform(0.1, 1.0, 4), rng.uniform(0.0, 2.0, 4)
    lr = 0.1 / ((2 * delay + 1) * curvature.max())
    exact = 0.0
    for a, variance in zip(curvature, noise):
        step = np.eye(delay + 1, k=-1)
        step[0, 0] = 1.0
        step[0, delay] -= lr * a
        driven = np.zeros((delay + 1, delay + 1))
        driven[0, 0] = lr**2 * variance
        exact += 0.5 * a * float(solve_discrete_lyapunov(step, driven)[0, 0])
    found = delayed_excess_loss(torch.as_tensor(curvature), torch.as_tensor(noise), lr, delay)
    assert found == pytest.approx(exact, rel=0.01)


def test_the_best_momentum() -> None:
    """0.6 without a delay; below 0 with one, and then hardly better than none."""
    synchronous = best_momentum(0.02, 1.0, 0)
    assert synchronous.momentum == pytest.approx(0.6, abs=0.011)
    ideal = (math.sqrt(50) - 1) / (math.sqrt(50) + 1)
    assert ideal <= synchronous.rate < 1.05 * ideal
    for delay, without in ((1, 0.9804), (3, 0.99125), (7, 0.99588)):
        best = best_momentum(0.02, 1.0, delay)
        assert best.momentum < -0.5
        assert without - 0.002 < best.rate < without
        assert not grows(best.lr, best.momentum, delay)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: implicit_momentum(0), ValueError, "Invalid workers value: 0; it must be at least"),
        (lambda: implicit_momentum(2.0), TypeError, "Invalid workers type: float"),  # type: ignore[arg-type]
        (lambda: algorithmic_momentum(1.0, 2), ValueError, r"Invalid total value: 1\.0"),
        (lambda: stability_limit(-1), ValueError, "Invalid delay value: -1"),
        (lambda: stability_limit(1, 1.0), ValueError, r"Invalid momentum value: 1\.0"),
        (lambda: best_momentum(2.0, 1.0, 0), ValueError, r"Invalid h_min value: 2\.0; .* h_max"),
        (lambda: best_momentum(0.1, 1.0, 65), ValueError, "Invalid delay value: 65"),
        (
            lambda: delayed_excess_loss(torch.ones(2), torch.ones(3), 0.01, 0),
            *(ValueError, r"Invalid noise value: \(3,\)"),
        ),
        (
            lambda: delayed_excess_loss(torch.ones(1), torch.ones(1), 0.2, 1),
            *(ValueError, r"Invalid lr value: 0\.2; it must be at most 0\.0333333"),
        ),
        (
            lambda: delayed_excess_loss(-torch.ones(1), torch.ones(1), 0.01, 1),
            *(ValueError, r"Invalid curvature value: -1\.0"),
        ),
        (
            lambda: delayed_excess_loss(torch.ones(1), -torch.ones(1), 0.01, 1),
            *(ValueError, r"Invalid noise value: -1\.0"),
        ),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
