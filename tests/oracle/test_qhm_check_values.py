"""The oracles of QHM and QHAdam themselves: the methods that they contain, torch's among them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from oracle.momentum_methods import SPECIAL_CASES, NoisyQuadratic, SpecialCase
from oracle.qhadam import QhAdamGroup, QhAdamOracle
from oracle.qhm import QhmGroup, QhmOracle
from oracle.vectors import Array

# (lr, beta, nu) of QHM: the conversion table of the specification, row by row.
Triple = tuple[float, float, float]


def from_sgd(lr: float) -> Triple:
    return lr, 0.5, 0.0  # any beta does


def from_momentum(lr: float, momentum: float) -> Triple:
    return lr / (1 - momentum), momentum, 1.0


def from_nesterov(lr: float, momentum: float) -> Triple:
    return lr / (1 - momentum), momentum, momentum


def from_pid(kp: float, ki: float, kd: float) -> Triple:
    return ki, kd / (kd - kp), kp**2 / (ki * kd)


def from_synthesized_nesterov(alpha: float, beta1: float, beta2: float) -> Triple:
    return alpha / (1 - beta1), beta1, 1 - (1 - beta1) * beta2 / beta1


def from_robust_momentum(L: float, kappa: float, rho: float) -> Triple:
    return from_synthesized_nesterov(
        kappa * (1 - rho) ** 2 * (1 + rho) / L,
        kappa * rho**3 / (kappa - 1),
        rho**3 / ((kappa - 1) * (1 - rho) ** 2 * (1 + rho)),
    )


def from_triple_momentum(L: float, kappa: float) -> Triple:
    return from_robust_momentum(L, kappa, 1 - 1 / math.sqrt(kappa))


def from_accsgd(delta: float, kappa: float, xi: float, eps: float = 0.7) -> Triple:
    return (
        delta * eps * (1 + xi) / (1 + eps),
        (kappa - eps**2 * xi) / (kappa + eps * xi),
        (eps * xi - 1) / (eps * (1 + xi)),
    )


CONVERSIONS: dict[str, Callable[..., Triple]] = {
    "sgd": from_sgd,
    "momentum": from_momentum,
    "nesterov": from_nesterov,
    "pid": from_pid,
    "synthesized_nesterov": from_synthesized_nesterov,
    "robust_momentum": from_robust_momentum,
    "triple_momentum": from_triple_momentum,
    "accsgd": from_accsgd,
}


@pytest.mark.parametrize("case", SPECIAL_CASES, ids=str)
def test_every_row_of_the_conversion_table(case: SpecialCase, rng: np.random.Generator) -> None:
    problem = NoisyQuadratic(rng)
    lr, beta, nu = CONVERSIONS[case.name](**case.arguments)
    group = QhmGroup([problem.start], lr=lr, beta=beta, nu=nu)
    oracle = QhmOracle([group])
    points = [problem.start]
    for t in range(problem.steps):
        oracle.step([problem.gradient(points[-1], t)])
        points.append(group.params[0])
    expected = case.points(problem)
    assert np.abs(np.diff(expected, axis=0)).max() > 1e-2  # it has moved
    assert np.abs(expected).max() < 100.0  # and stayed
    assert np.linalg.norm(points - expected, axis=1) == pytest.approx(
        np.zeros(len(points)), abs=1e-12 * np.linalg.norm(expected, axis=1).max()
    )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_qhm_contains_torch_sgd_with_coupled_decay(
    nesterov: bool, maximize: bool, rng: np.random.Generator
) -> None:
    start, gradients = rng.standard_normal(40), rng.standard_normal((60, 40))
    decay: dict[str, Any] = {"weight_decay": 0.05, "maximize": maximize}
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    sgd = torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=nesterov, **decay)
    lr, beta, nu = (from_nesterov if nesterov else from_momentum)(0.1, 0.9)
    group = QhmGroup([start], lr=lr, beta=beta, nu=nu, **decay)
    oracle = QhmOracle([group])
    for g in gradients:
        p.grad = torch.from_numpy(g)
        sgd.step()
        oracle.step([g])
    np.testing.assert_allclose(group.params[0], p.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_qhm_by_hand() -> None:
    """Decay 0.5 and lr 0.1: coupled it adds 1 to the gradient 3, decoupled it shrinks 2 to 1.9."""
    coupled = QhmGroup([np.full(1, 2.0)], lr=0.1, nu=0.5, beta=0.8, weight_decay=0.5)
    QhmOracle([coupled]).step([np.full(1, 6.0)], grad_scale=2.0)
    # g = 4, d = 0.8: 2 - 0.1 (0.5 * 4 + 0.5 * 0.8).
    assert coupled.params[0] == pytest.approx([1.76], rel=1e-15)
    decoupled = QhmGroup(
        [np.full(1, 2.0)], lr=0.1, nu=0.5, beta=0.8, weight_decay=0.5, decoupled_weight_decay=True
    )
    QhmOracle([decoupled]).step([np.full(1, -3.0)])
    # g = -3, d = -0.6: 1.9 + 0.1 (0.5 * 3 + 0.5 * 0.6).
    assert decoupled.params[0] == pytest.approx([2.08], rel=1e-15)
    assert decoupled.path[0] == pytest.approx([0.1 + 0.18], rel=1e-14)


def qhadam_moves(start: Array, gradients: Array, **options: Any) -> Array:
    group = QhAdamGroup([start], **options)
    oracle = QhAdamOracle([group])
    points = [start]
    for g in gradients:
        oracle.step([g])
        points.append(group.params[0])
    return np.diff(points, axis=0)


def torch_moves(
    kind: type[torch.optim.Optimizer], start: Array, gradients: Array, **options: Any
) -> Array:
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = kind([p], **options)
    points = [start]
    for g in gradients:
        p.grad = torch.from_numpy(g)
        optimizer.step()
        points.append(p.detach().numpy().copy())
    return np.diff(points, axis=0)


@pytest.mark.parametrize("decoupled", [False, True])
def test_nus_of_one_are_torch_adam(decoupled: bool, rng: np.random.Generator) -> None:
    start, gradients = rng.standard_normal(40), rng.standard_normal((60, 40))
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.05}
    np.testing.assert_allclose(
        qhadam_moves(start, gradients, nus=(1, 1), decoupled_weight_decay=decoupled, **options),
        torch_moves(
            torch.optim.AdamW if decoupled else torch.optim.Adam, start, gradients, **options
        ),
        atol=1e-13,
    )


def test_nu1_of_beta1_is_nadam_once_its_debiasing_has_faded(rng: np.random.Generator) -> None:
    """(1-b1) g + b1 m/(1-b1^t) against NAdam's (1-b1)/(1-b1^t) g + b1 m/(1-b1^(t+1)).

    The two agree up to b1^t. torch's NAdam has a momentum schedule, b1 (1 - 0.96^(t decay)/2): a
    large decay makes it constant, a decay of 0 would halve b1.
    """
    beta1, steps = 0.5, 60
    gradients = rng.standard_normal((steps, 40))
    options: dict[str, Any] = {"lr": 0.01, "betas": (beta1, 0.99)}
    ours = qhadam_moves(np.zeros(40), gradients, nus=(beta1, 1.0), **options)
    nadam = torch_moves(torch.optim.NAdam, np.zeros(40), gradients, momentum_decay=1e6, **options)
    # First step: g against g (1 + 2 b1)/(1 + b1).
    np.testing.assert_allclose(nadam[0], ours[0] * (1 + 2 * beta1) / (1 + beta1), rtol=1e-12)
    assert np.abs(nadam[5] - ours[5]).max() > 1e-6
    np.testing.assert_allclose(ours[45:], nadam[45:], atol=1e-13)


def test_qhadam_by_hand() -> None:
    """Gradients 3, then -1, betas (0.5, 0.75), nus (0.4, 0.3), eps 0.1, lr 1."""
    options: dict[str, Any] = {"lr": 1.0, "nus": (0.4, 0.3), "betas": (0.5, 0.75), "eps": 0.1}
    first, second = qhadam_moves(np.zeros(1), np.array([[3.0], [-1.0]]), **options)
    assert first == pytest.approx([-3.0 / 3.1], rel=1e-14)  # debiased moments are g and g²
    # m = 0.25 * 3 - 0.5 = 0.25, debiased by 0.75; v = 0.1875 * 9 + 0.25 = 1.9375, by 0.4375.
    numerator = 0.6 * -1.0 + 0.4 * 0.25 / 0.75
    denominator = math.sqrt(0.7 * 1.0 + 0.3 * 1.9375 / 0.4375) + 0.1
    assert second == pytest.approx([-numerator / denominator], rel=1e-13)


@pytest.mark.parametrize(
    ("oracle_kind", "group_kind"), [(QhmOracle, QhmGroup), (QhAdamOracle, QhAdamGroup)]
)
def test_skipped_steps_and_absent_gradients(oracle_kind: Any, group_kind: Any) -> None:
    oracle = oracle_kind([group_kind([np.ones(2), np.ones(1)])], skip_nonfinite=True)
    trace = oracle.step([np.array([3.0, 4.0]), None])
    assert (trace.grad_norm, trace.steps) == (5.0, [1, 0])
    before = oracle.groups[0].params[0].copy()
    assert oracle.step([np.array([np.nan, 0.0]), np.ones(1)]) is None
    assert oracle.step([np.zeros(2), np.ones(1)], found_inf=True) is None
    assert oracle.step([None, None]) is None
    assert (oracle.groups[0].params[0] == before).all()
    assert oracle.groups[0].params[1] == [1.0]
    assert (oracle.skipped_steps, oracle.groups[0].steps) == (2, [1, 0])

    unmeasured = oracle_kind([group_kind([np.ones(1)])])
    assert math.isnan(unmeasured.step([np.ones(1)]).grad_norm)
    assert unmeasured.step([np.ones(1)], found_inf=True) is None
