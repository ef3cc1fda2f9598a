"""The covariance that stale gradients leave, and the risk bound made of it, against simulations."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov

from yfkernels.analysis import (
    delayed_covariance,
    delayed_excess_loss,
    delayed_pac_bayes_bound,
    pac_bayes_bound,
    stationary_excess_loss,
)

Matrix = NDArray[np.float64]
DELAYS = (0, 1, 3, 7)


def random_spd(rng: np.random.Generator, d: int, lowest: float) -> Matrix:
    """Eigenvalues between `lowest` and 1, the largest of them 1, in random directions."""
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    values = rng.uniform(lowest, 1.0, d)
    return (basis * (values / values.max())) @ basis.T


def exact(a: Matrix, s: Matrix, lr: float, delay: int) -> Matrix:
    """The covariance of x(t), from that of (x(t), ..., x(t - tau))."""
    d, size = len(a), len(a) * (delay + 1)
    step = np.eye(size, k=-d)
    step[:d, :d] = np.eye(d)
    step[:d, -d:] -= lr * a
    driven = np.zeros((size, size))
    driven[:d, :d] = lr**2 * s
    covariance: Matrix = solve_discrete_lyapunov(step, driven)[:d, :d]
    return covariance


def simulate(
    gradient: Callable[[Matrix], Matrix], start: Matrix, lr: float, delays: Any, steps: int
) -> Matrix:
    """SGD as it is written, many walkers at once; delays[t] is the age of step t's gradient."""
    x, versions = start, deque([start] * (max(delays) + 1), maxlen=max(delays) + 1)
    for t in range(steps):
        x = x - lr * gradient(versions[-1 - delays[t % len(delays)]])
        versions.append(x)
    return x


@pytest.mark.parametrize("delay", DELAYS)
def test_error_is_of_third_order(delay: int, rng: np.random.Generator) -> None:
    """With A and S of different eigenvectors; a wrong second order would fall by 4, not by 8."""
    a, s = random_spd(rng, 3, 0.2), random_spd(rng, 3, 0.2)
    errors = []
    for lr in (0.02 / (2 * delay + 1), 0.01 / (2 * delay + 1)):
        error = delayed_covariance(a, s, lr, delay).numpy() - exact(a, s, lr, delay)
        errors.append(float(np.abs(error).max()))
    assert errors[1] <= errors[0] / 7.0 + 1e-13


@pytest.mark.parametrize("delay", DELAYS)
def test_promised_accuracy_at_the_edge_of_the_range(delay: int, rng: np.random.Generator) -> None:
    for _ in range(10):
        a, s = random_spd(rng, 3, 0.001), random_spd(rng, 3, 0.001)
        lr = 0.1 / (2 * delay + 1)
        _, basis = np.linalg.eigh(a)
        found, wanted = delayed_covariance(a, s, lr, delay).numpy(), exact(a, s, lr, delay)
        along = [np.diag(basis.T @ each @ basis) for each in (found, wanted)]
        assert np.abs(along[0] / along[1] - 1.0).max() < 0.003


def measured(
    a: Matrix, s: Matrix, lr: float, delays: Any, rng: np.random.Generator, walkers: int
) -> Matrix:
    """The covariance of walkers on a quadratic with constant Gaussian noise, once at rest."""
    root = np.linalg.cholesky(s)

    def gradient(x: Matrix) -> Matrix:
        noise: Matrix = rng.normal(size=x.shape) @ root.T
        return x @ a + noise

    # begun with about the right spread, they have only to forget that they came without a past
    start = rng.normal(size=(walkers, len(a))) @ np.linalg.cholesky(0.5 * lr * np.linalg.inv(a)).T
    steps = int(3.0 / (lr * np.linalg.eigvalsh(a)[0]))
    return np.cov(simulate(gradient, start, lr, delays, steps), rowvar=False)


def far_off(found: Matrix, wanted: Matrix) -> float:
    """The largest relative error of a variance in any direction."""
    root = np.linalg.inv(np.linalg.cholesky(wanted))
    return float(np.abs(np.linalg.eigvalsh(root @ found @ root.T) - 1.0).max())


def divergence(bound: float, risk: float, n: int, delta: float = 0.05) -> float:
    """The KL divergence that a bound was made of."""
    return (bound - risk) ** 2 * (2 * n - 1) - math.log(n / delta) - 2.0


@pytest.mark.parametrize("name", ["fixed", "geometric"])
def test_simulated_covariance_and_bound(name: str, rng: np.random.Generator) -> None:
    """A variance of 120,000 walkers is 0.4% off; the delay makes some 4% more, and 0.03 of KL."""
    a, s = random_spd(rng, 2, 0.5), random_spd(rng, 2, 0.5)
    delay, lr = 3, 0.1 / 7
    delays = [delay]
    if name == "geometric":  # four workers
        delays = [min(int(age), 60) for age in rng.geometric(0.25, size=5000) - 1]
    seen = measured(a, s, lr, delays, rng, walkers=120_000)
    sigma, synchronous = (delayed_covariance(a, s, lr, tau).numpy() for tau in (delay, 0))
    assert far_off(seen, sigma) < 0.03 < far_off(synchronous, sigma)
    w, w0 = np.array([0.3, -0.2]), np.zeros(2)
    rest = {"prior_variance": 0.05, "n": 50}
    bound = delayed_pac_bayes_bound(0.1, a, s, w, w0, lr=lr, delay=delay, **rest)
    found = divergence(bound, 0.1, 50)
    of_seen, of_none = (
        divergence(pac_bayes_bound(0.1, each, w, w0, **rest), 0.1, 50)
        for each in (seen, synchronous)
    )
    assert abs(found - of_seen) < 0.022
    assert of_none - found == pytest.approx(
        lr * delay * (2.0 * np.trace(a) - lr * np.trace(s) / 0.05) / 4.0, rel=0.2
    )


def test_bound_of_asynchronous_regression(rng: np.random.Generator) -> None:
    """Least squares by minibatches of four, each gradient two versions old: A and S are measured,
    and the Gaussian that they give has the risks that SGD's own weights have."""
    n, size, delay, lr = 400, 4, 2, 0.015
    truth, w0 = np.array([0.4, -0.3]), np.zeros(2)

    def draw(count: int) -> tuple[Matrix, Matrix]:
        x = rng.normal(size=(count, 2)) * np.array([1.0, 0.7])
        return x, x @ truth + 0.5 * rng.normal(size=count)

    (x, y), fresh = draw(n), draw(20_000)

    def gradient(w: Matrix) -> Matrix:
        of = rng.integers(n, size=(len(w), size))
        errors = np.einsum("kbd,kd->kb", x[of], w) - y[of]
        batches: Matrix = np.einsum("kb,kbd->kd", errors, x[of]) / size
        return batches

    def risk(w: Matrix, data: tuple[Matrix, Matrix]) -> float:
        inputs, outputs = data
        return float(np.minimum((inputs @ w[:500].T - outputs[:, None]) ** 2, 1.0).mean())

    a = x.T @ x / n
    w = np.linalg.solve(a, x.T @ y / n)
    s = np.cov(x * (x @ w - y)[:, None], rowvar=False) / size
    weights = simulate(gradient, np.tile(w, (4000, 1)), lr, [delay], 600)
    sigma = delayed_covariance(a, s, lr, delay).numpy()
    assert (
        far_off(np.cov(weights, rowvar=False), sigma) < 0.2
    )  # 2% of chance, and S is not constant
    gaussian = rng.multivariate_normal(w, sigma, size=500)
    empirical = risk(weights, (x, y))
    assert empirical == pytest.approx(risk(gaussian, (x, y)), rel=0.02)
    bound = delayed_pac_bayes_bound(empirical, a, s, w, w0, 0.1, n, lr=lr, delay=delay)
    assert risk(weights, fresh) < bound < 1.0


def test_without_a_delay() -> None:
    """Exactly the first two orders that the loss of SGD has."""
    a, s, lr = torch.tensor([1.0, 0.3]), torch.tensor([0.5, 2.0]), 0.05
    sigma = delayed_covariance(a, s, lr, 0)
    assert 0.5 * float(a.double() @ sigma) == pytest.approx(
        stationary_excess_loss(a, s, lr), rel=1e-12
    )


def test_the_bound_is_the_usual_one_with_that_covariance() -> None:
    a, s, w, w0 = torch.ones(2), torch.tensor([0.5, 2.0]), torch.ones(2), torch.zeros(2)
    sigma = delayed_covariance(a, s, 0.01, 4)
    bound = delayed_pac_bayes_bound(0.2, a, s, w, w0, 0.5, 70, lr=0.01, delay=4, delta=0.2)
    assert bound == pac_bayes_bound(0.2, sigma, w, w0, 0.5, 70, 0.2)


def test_the_loss_is_that_of_the_covariance() -> None:
    a, s, lr = torch.tensor([1.0, 0.3]), torch.tensor([0.5, 2.0]), 0.01
    sigma = delayed_covariance(a, s, lr, 4)
    assert 0.5 * float(a.double() @ sigma) == pytest.approx(
        delayed_excess_loss(a, s, lr, 4), rel=1e-12
    )


def test_diagonals_are_matrices(rng: np.random.Generator) -> None:
    a, s = rng.uniform(0.5, 1.0, 3), random_spd(rng, 3, 0.1)
    full = delayed_covariance(np.diag(a), s, 0.01, 2)
    torch.testing.assert_close(delayed_covariance(a, s, 0.01, 2), full)
    of_diagonals = delayed_covariance(a, np.diag(s).copy(), 0.01, 2)
    torch.testing.assert_close(of_diagonals, full.diagonal())
    torch.testing.assert_close(
        delayed_covariance(np.diag(a), np.diag(s).copy(), 0.01, 2), torch.diag(of_diagonals)
    )


def test_staleness_lowers_the_divergence_while_it_is_narrower_than_the_prior() -> None:
    a, s, w = torch.ones(2), torch.ones(2), torch.zeros(2)
    for prior_variance, falls in ((1.0, True), (0.001, False)):
        synchronous, stale = (
            delayed_pac_bayes_bound(0.1, a, s, w, w, prior_variance, 100, lr=0.01, delay=delay)
            for delay in (0, 4)
        )
        assert (stale < synchronous) == falls


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"delay": -1}, ValueError, "Invalid delay value: -1; it must be at least 0"),
        ({"delay": 1.0}, TypeError, "Invalid delay type: float"),
        ({"lr": 0.03}, ValueError, r"Invalid lr value: 0\.03; it must be at most 0\.0166667"),
        ({"lr": 0.0}, ValueError, "Invalid lr"),
        ({"curvature": torch.tensor([1.0, 0.0])}, ValueError, "curvature .*positive definite"),
        ({"noise": torch.tensor([1.0, -1.0])}, ValueError, "noise .*semidefinite"),
        ({"noise": torch.ones(3)}, ValueError, "noise value: of size 3"),
        ({"noise": torch.tensor([1.0, 0.0])}, ValueError, "covariance .*positive definite"),
        ({"w": torch.zeros(3)}, ValueError, "Invalid w value: of size 3"),
        ({"n": 0}, ValueError, "Invalid n"),
    ],
)
def test_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {
        "empirical_risk": 0.1,
        "curvature": torch.tensor([2.0, 1.0]),
        "noise": torch.tensor([1.0, 1.0]),
        "w": torch.ones(2),
        "w0": torch.zeros(2),
        "prior_variance": 1.0,
        "n": 100,
        "lr": 0.1 / 6,
        "delay": 1,
    }
    delayed_pac_bayes_bound(**good)
    with pytest.raises(error, match=message):
        delayed_pac_bayes_bound(**good | change)
