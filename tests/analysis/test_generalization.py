"""Stationary loss against an exact Lyapunov solve and a simulation; the PAC-Bayes bound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov
from torch.distributions import MultivariateNormal, kl_divergence

from yfkernels.analysis import pac_bayes_bound, stationary_excess_loss

Matrix = NDArray[np.float64]


def random_spd(rng: np.random.Generator, d: int = 4) -> Matrix:
    root = rng.normal(size=(d, d))
    return root @ root.T / d + 0.1 * np.eye(d)


def recursion(a: Matrix, s: Matrix, lr: float, beta: float, nu: float) -> tuple[Matrix, Matrix]:
    """QHM on a noisy quadratic: (x, d) <- M (x, d) + e, with the covariance of e."""
    eye = np.eye(len(a))
    m = np.block([[eye - lr * (1 - nu * beta) * a, -lr * nu * beta * eye],
                  [(1 - beta) * a, beta * eye]])  # fmt: skip
    gain = np.vstack([-lr * (1 - nu * beta) * eye, (1 - beta) * eye])
    return m, gain @ s @ gain.T


def exact(a: Matrix, s: Matrix, lr: float, beta: float, nu: float) -> float:
    sigma = solve_discrete_lyapunov(*recursion(a, s, lr, beta, nu))[: len(a), : len(a)]
    return 0.5 * float(np.trace(a @ sigma))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("nu", [0.0, 0.5, 0.7, 1.0])
def test_error_is_of_third_order(beta: float, nu: float, rng: np.random.Generator) -> None:
    """A wrong factor in the second-order term would fall by 4 with half the lr, not by 8."""
    a, s = random_spd(rng), random_spd(rng)
    largest = 0.05 * (1.0 - beta) / float(np.linalg.eigvalsh(a)[-1])
    errors = []
    for lr in (largest, largest / 2):
        truth = exact(a, s, lr, beta, nu)
        # near the edge of stability the solve itself is good to some 1e-12 of the truth
        error = abs(stationary_excess_loss(a, s, lr, beta, nu) - truth)
        errors.append((error, 1e-10 * truth))
    (first, noise), (second, _) = errors
    assert second <= first / 7.0 + noise


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_promised_accuracy_at_the_edge_of_the_range(beta: float) -> None:
    """A sum over the eigenvectors of A, so one dimension is as bad as it gets."""
    one = np.ones((1, 1))
    for nu in np.linspace(0.0, 1.0, 21):
        for part in (1.0, 0.3, 0.1):
            lr = part * 0.25 * (1.0 - beta)
            truth = exact(one, one, lr, beta, float(nu))
            loss = stationary_excess_loss(one, one, lr, beta, float(nu))
            assert abs(loss / truth - 1.0) <= (1.0 + 1e-9) / 64


@pytest.mark.parametrize(("beta", "nu"), [(0.0, 1.0), (0.8, 0.5), (0.9, 1.0)])
def test_simulation(beta: float, nu: float, rng: np.random.Generator) -> None:
    """QHM as it is written, and its loss ½ xᵀ A x averaged."""
    a, s = random_spd(rng, 2), random_spd(rng, 2)
    a = np.eye(2) + a / float(np.linalg.eigvalsh(a)[-1])  # eigenvalues from 1 to 2: soon at rest
    lr = 0.1 * (1.0 - beta)
    root = np.linalg.cholesky(s)
    walkers = 4000
    x, d = np.zeros((walkers, 2)), np.zeros((walkers, 2))
    for _ in range(int(10.0 / lr)):
        g = x @ a + rng.normal(size=(walkers, 2)) @ root.T
        d = beta * d + (1.0 - beta) * g
        x = x - lr * ((1.0 - nu) * g + nu * d)
    losses = 0.5 * np.einsum("wi,ij,wj->w", x, a, x)
    deviation = float(losses.std()) / math.sqrt(walkers)
    loss = stationary_excess_loss(a, s, lr, beta, nu)
    assert abs(float(losses.mean()) - loss) <= 5.0 * deviation + loss / 64


def test_mean_loss_of_sgd() -> None:
    """In one dimension Sigma = lr s / (2 a - lr a²) by hand, and the loss is a Sigma / 2."""
    a, s, lr = 2.0, 3.0, 0.01
    loss = stationary_excess_loss(torch.tensor([a]), torch.tensor([s]), lr)
    assert loss == pytest.approx(0.5 * a * lr * s / (2.0 * a - lr * a * a), rel=(lr * a) ** 2)
    assert loss == pytest.approx(0.25 * lr * s * (1.0 + 0.5 * lr * a), rel=1e-14)


def test_diagonals_are_matrices(rng: np.random.Generator) -> None:
    a, s = rng.uniform(0.5, 1.0, 3), rng.uniform(0.0, 1.0, 3)
    full = stationary_excess_loss(np.diag(a), np.diag(s), 0.01, 0.9, 0.7)
    for curvature, noise in [(a, s), (np.diag(a), s), (a, np.diag(s))]:
        assert stationary_excess_loss(curvature, noise, 0.01, 0.9, 0.7) == pytest.approx(full)
    mixed = random_spd(rng, 3)
    both = stationary_excess_loss(np.diag(a), mixed, 0.01, 0.9, 0.7)
    assert stationary_excess_loss(a, mixed, 0.01, 0.9, 0.7) == pytest.approx(both)


def test_float32_covariance_with_a_null_space(rng: np.random.Generator) -> None:
    """A noise estimate from fewer gradients than parameters is semidefinite by rounding only."""
    grads = torch.from_numpy(rng.normal(size=(3, 20))).float()
    noise = grads.mT @ grads
    curvature = torch.eye(20)
    expected = 0.0025 * float(noise.trace()) * (1.0 + 0.005)
    assert stationary_excess_loss(curvature, noise, 0.01) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"curvature": torch.tensor([1.0, -0.5])},
            "Invalid curvature value: smallest eigenvalue -0.5; it must be positive definite",
        ),
        ({"curvature": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}, "positive definite"),
        ({"curvature": torch.tensor([[1.0, 0.5], [0.0, 1.0]])}, "curvature .*transpose by 0.5"),
        ({"curvature": torch.ones(2, 3)}, r"Invalid curvature shape: \(2, 3\)"),
        ({"curvature": torch.tensor([1.0, math.nan])}, "curvature value: nan.*finite"),
        ({"noise": torch.tensor([1.0, -1.0])}, "Invalid noise .*semidefinite"),
        ({"noise": torch.ones(3)}, "noise value: of size 3; it must be of curvature's size 2"),
        ({"noise": torch.ones(0)}, "noise shape"),
        ({"lr": 0.0}, "Invalid lr"),
        ({"lr": math.nan}, "Invalid lr"),
        ({"lr": 0.0126}, r"Invalid lr value: 0.0126; .*0.0125"),  # 0.1 / 4 / 2
        ({"beta": 1.0}, "Invalid beta"),
        ({"beta": -0.1}, "Invalid beta"),
        ({"nu": 1.1}, "Invalid nu"),
    ],
)
def test_stationary_loss_refuses(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "curvature": torch.tensor([2.0, 1.0]),
        "noise": torch.tensor([1.0, 1.0]),
        "lr": 0.0125,
        "beta": 0.9,
        "nu": 0.7,
    }
    stationary_excess_loss(**good)
    with pytest.raises(ValueError, match=message):
        stationary_excess_loss(**good | change)


def bound(**change: Any) -> float:
    arguments: dict[str, Any] = {
        "empirical_risk": 0.1,
        "covariance": torch.full((3,), 0.5),
        "w": torch.tensor([1.0, 0.0, 0.0]),
        "w0": torch.zeros(3),
        "prior_variance": 2.0,
        "n": 1000,
        "delta": 0.05,
    }
    return pac_bayes_bound(**arguments | change)


@pytest.mark.parametrize("diagonal", [False, True])
def test_kl_is_that_of_torch(diagonal: bool, rng: np.random.Generator) -> None:
    sigma = torch.from_numpy(np.diag(rng.uniform(0.1, 2, 4)) if diagonal else random_spd(rng))
    w, w0 = torch.from_numpy(rng.normal(size=4)), torch.from_numpy(rng.normal(size=4))
    prior = MultivariateNormal(w0, 0.7 * torch.eye(4, dtype=torch.float64))
    kl = float(kl_divergence(MultivariateNormal(w, sigma), prior))
    gap = math.sqrt((kl + math.log(1 / 0.05) + math.log(500) + 2) / 999)
    covariance = sigma.diagonal() if diagonal else sigma
    assert pac_bayes_bound(0.25, covariance, w, w0, 0.7, 500) == pytest.approx(
        0.25 + gap, rel=1e-12
    )


def test_posterior_equal_to_the_prior_has_no_kl() -> None:
    same = bound(covariance=torch.full((3,), 2.0), w=torch.zeros(3))
    assert same == pytest.approx(0.1 + math.sqrt((math.log(1000 / 0.05) + 2) / 1999), rel=1e-12)


def test_much_data_leaves_the_empirical_risk() -> None:
    assert bound(n=10**15) == pytest.approx(0.1, abs=1e-6)
    by_n = [bound(n=10**k) for k in range(1, 10)]
    assert by_n == sorted(by_n, reverse=True)


def test_grows_with_distance_risk_and_certainty() -> None:
    for name, values in {
        "w": [torch.full((3,), x) for x in (0.0, 0.5, 1.0, 5.0)],
        "delta": [0.5, 0.1, 1e-3, 1e-12],
        "empirical_risk": [0.0, 0.2, 1.0],
        "covariance": [torch.full((3,), v) for v in (2.0, 1.0, 0.1, 1e-9)],  # narrower than l0
    }.items():
        bounds = [bound(**{name: value}) for value in values]
        assert bounds == sorted(bounds), name
        assert bounds[0] < bounds[-1], name


def test_many_parameters_do_not_overflow() -> None:
    """det Sigma is 1e-4000000 here."""
    d = 1_000_000
    value = bound(covariance=torch.full((d,), 1e-4), w=torch.zeros(1000, 1000), w0=torch.zeros(d))
    assert math.isfinite(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"empirical_risk": 1.1}, "Invalid empirical_risk"),
        ({"empirical_risk": math.nan}, "Invalid empirical_risk"),
        ({"covariance": torch.tensor([1.0, 0.0, 1.0])}, "covariance .*positive definite"),
        ({"covariance": -torch.eye(3)}, "covariance .*positive definite"),
        ({"covariance": torch.ones(3, 2)}, "covariance shape"),
        ({"w": torch.zeros(4)}, "Invalid w value: of size 4; .*covariance's size 3"),
        ({"w0": torch.zeros(2)}, "Invalid w0 value: of size 2"),
        ({"w": torch.tensor([math.inf, 0.0, 0.0])}, "Invalid w .*finite"),
        ({"prior_variance": 0.0}, "Invalid prior_variance"),
        ({"n": 0}, "Invalid n "),
        ({"n": 10.5}, "Invalid n "),
        ({"delta": 0.0}, "Invalid delta"),
        ({"delta": 1.0}, "Invalid delta"),
    ],
)
def test_bound_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(**change)


@pytest.mark.parametrize("name", ["w", "w0", "covariance"])
def test_bound_wants_tensors(name: str) -> None:
    with pytest.raises(TypeError, match=f"Invalid {name} type: list; give a tensor"):
        bound(**{name: [torch.ones(2, 3), torch.ones(2)]})
