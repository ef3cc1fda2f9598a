"""The oracle of LAMB itself: published numbers, numbers worked by hand, torch's Adam and AdamW."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from oracle.lamb import PRESETS, LambGroup, LambOracle
from oracle.vectors import Array


def relative_moves(p: Array, g: Array, steps: int, **options: Any) -> list[float]:
    """‖Δp‖/‖p‖ of each step under a constant gradient."""
    oracle = LambOracle([LambGroup([p], **options)])
    moves = []
    for _ in range(steps):
        before = oracle.groups[0].params[0]
        oracle.step([g])
        move = oracle.groups[0].params[0] - before
        moves.append(float(np.linalg.norm(move) / np.linalg.norm(before)))
    return moves


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper", [1.0e-3] * 5),
        ("apex", [1.0e-3] * 5),
        ("timm", [1.0e-3] * 5),
        ("nvlamb", [1.0e-3] * 5),
        ("deepspeed", [3.16e-4, 2.35e-4, 2.02e-4, 1.84e-4, 1.73e-4]),
    ],
)
def test_relative_update_of_each_preset(
    preset: str, expected: list[float], rng: np.random.Generator
) -> None:
    p, g = rng.standard_normal((2, 500))
    options = {**PRESETS[preset], "weight_decay": 0.01}
    # The published numbers have three digits; the mathematics gives the first row to the last bit.
    rel = 1e-12 if expected[0] == 1e-3 else 3e-3
    assert relative_moves(p, g, 5, **options) == pytest.approx(expected, rel=rel)


def test_clamped_norm_of_v3_slows_large_tensors(rng: np.random.Generator) -> None:
    p, g = rng.standard_normal((2, 500))
    p *= 40.0 / np.linalg.norm(p)
    moves = relative_moves(p, g, 1, **PRESETS["v3"])
    assert moves == pytest.approx([1e-3 * 10.0 / 40.0], rel=1e-12)
    # Without debiasing the ratio is still all of the scale.
    assert relative_moves(p / 8.0, g, 1, **PRESETS["v3"]) == pytest.approx([1e-3], rel=1e-12)


def test_apex_by_hand() -> None:
    """‖(6, 8), (0, 24)‖ = 26, so c = 13 in the group with 2, and 26 in the group with 1."""
    adapting = LambGroup([np.array([3.0, 4.0])], **{**PRESETS["apex"], "max_grad_norm": 2.0})
    plain = LambGroup([np.array([5.0, 7.0])], **{**PRESETS["apex"], "weight_decay": 0.0})
    oracle = LambOracle([adapting, plain])

    trace = oracle.step([np.array([6.0, 8.0]), np.array([0.0, 24.0])])
    assert trace is not None
    assert trace.grad_norm == 26.0
    # After one step m/bc1 = g and sqrt(v/bc2) = |g|.
    a, b, c = 6 / 13, 8 / 13, 24 / 26
    u = [a / (a + 1e-6) + 0.03, b / (b + 1e-6) + 0.04]
    ratio = 5.0 / math.hypot(*u)
    assert trace.trust_ratios == pytest.approx([ratio, 1.0], rel=1e-14)
    np.testing.assert_allclose(
        adapting.params[0], [3 - 1e-3 * ratio * u[0], 4 - 1e-3 * ratio * u[1]], rtol=1e-15
    )
    np.testing.assert_allclose(plain.params[0], [5.0, 7 - 1e-3 * c / (c + 1e-6)], rtol=1e-15)

    # A second step without clipping (norm 0.5 of the other group alone): (0.3, 0.4).
    p = adapting.params[0].copy()
    trace = oracle.step([np.array([0.3, 0.4]), None])
    assert trace is not None
    assert trace.steps == [2, 1]
    u = []
    for old, new, weight in [(a, 0.3, p[0]), (b, 0.4, p[1])]:
        m = (0.09 * old + 0.1 * new) / 0.19
        v = (0.000999 * old**2 + 0.001 * new**2) / 0.001999
        u.append(m / (math.sqrt(v) + 1e-6) + 0.01 * weight)
    ratio = math.hypot(*p) / math.hypot(*u)
    np.testing.assert_allclose(adapting.params[0], p - 1e-3 * ratio * np.array(u), rtol=1e-14)


@pytest.mark.parametrize(
    ("preset", "eps", "correction"),
    [("v3", 1e-6, 1.0), ("deepspeed", 1e-8, math.sqrt(0.001) / 0.1)],
)
def test_presets_without_debiased_moments_by_hand(
    preset: str, eps: float, correction: float
) -> None:
    """A gradient small enough to tell the eps apart; ‖p‖ = 5 is within all bounds."""
    group = LambGroup([np.array([3.0, 4.0])], **PRESETS[preset])
    trace = LambOracle([group]).step([np.array([1e-5, -2.0])])
    assert trace is not None
    u = [1e-6 / (math.sqrt(0.001) * 1e-5 + eps), -0.2 / (math.sqrt(0.001) * 2.0 + eps)]
    ratio = 5.0 / math.hypot(*u)
    assert trace.trust_ratios == pytest.approx([ratio], rel=1e-13)
    lr = 1e-3 * correction
    np.testing.assert_allclose(
        group.params[0], [3 - lr * ratio * u[0], 4 - lr * ratio * u[1]], rtol=1e-15
    )


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_ratio_one_it_is_torch_adam(decay: float, rng: np.random.Generator) -> None:
    """Without decay no ratio is taken: Adam. Decoupled decay, the ratio clipped to 1: AdamW."""
    start = rng.standard_normal(50)
    group = LambGroup(
        [start],
        lr=0.01,
        betas=(0.8, 0.95),
        weight_decay=decay,
        decoupled_weight_decay=True,
        max_grad_norm=None,
        trust_clip=(1.0, 1.0) if decay else None,
        maximize=True,
    )
    oracle = LambOracle([group])
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    adam = torch.optim.AdamW(
        [p], lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay, maximize=True
    )
    for g in rng.standard_normal((30, 50)):
        oracle.step([g])
        p.grad = torch.from_numpy(g)
        adam.step()
    np.testing.assert_allclose(group.params[0], p.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_deepspeed_corrects_lr_outside_the_ratio(rng: np.random.Generator) -> None:
    p, *gradients = rng.standard_normal((4, 30))
    decoupled = {**PRESETS["deepspeed"], "weight_decay": 0.1, "decoupled_weight_decay": True}
    group = LambGroup([p], **decoupled)
    bare = LambGroup([p], **{**decoupled, "bias_correction": False})
    for t, g in enumerate(gradients, 1):
        bare.params = [before := group.params[0]]
        LambOracle([group]).step([g])
        LambOracle([bare]).step([g])
        correction = math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        shrunk = before * (1 - 1e-3 * 0.1)  # the decay knows nothing of the correction
        np.testing.assert_allclose(
            group.params[0] - shrunk, correction * (bare.params[0] - shrunk), atol=4e-15
        )


@pytest.mark.parametrize(
    ("options", "ratio"),
    [
        ({}, 5.0),
        ({"trust_clip": 1.0}, 1.0),
        ({"trust_clip": 8.0}, 5.0),
        ({"trust_clip": (6.0, 10.0)}, 6.0),
        ({"trust_clip": (0.01, 2.0)}, 2.0),
        ({"trust_norm_bounds": (0.0, 3.0)}, 3.0),
        ({"trust_norm_bounds": (7.0, 9.0)}, 7.0),
        ({"trust_norm_bounds": (7.0, 9.0), "trust_clip": 4.0}, 4.0),
        ({"always_adapt": False}, 1.0),
        ({"always_adapt": False, "trust_clip": 0.5}, 1.0),
    ],
)
def test_ratio_and_its_bounds(options: dict[str, Any], ratio: float) -> None:
    """‖p‖ = 5 and, as eps vanishes, ‖u‖ = 1 at the first step."""
    settings = {"weight_decay": 0.0, "always_adapt": True, "eps": 1e-30, **options}
    trace = LambOracle([LambGroup([np.array([3.0, 4.0])], **settings)]).step([np.array([0, 2.0])])
    assert trace is not None
    assert trace.trust_ratios == pytest.approx([ratio], rel=1e-14)


def test_a_vanished_norm_takes_ratio_one() -> None:
    group = LambGroup([np.zeros(2), np.ones(2), np.zeros(0)], weight_decay=0.0, always_adapt=True)
    trace = LambOracle([group]).step([np.ones(2), np.zeros(2), np.zeros(0)])
    assert trace is not None
    assert trace.trust_ratios == [1.0, 1.0, 1.0]
    assert (group.params[0] < 0).all()
    assert (group.params[1] == 1).all()


def test_grad_averaging_weighs_the_gradient() -> None:
    """Without it m is ten times as large at the first step; Adam's step shows it."""
    moves = []
    for averaging in (True, False):
        group = LambGroup([np.ones(1)], weight_decay=0.0, grad_averaging=averaging, eps=1e-30)
        LambOracle([group]).step([np.full(1, 0.5)])
        moves.append(1.0 - group.params[0][0])
    assert moves == pytest.approx([1e-3, 1e-2], rel=1e-12)


@pytest.mark.parametrize("max_grad_norm", [None, 0, 0.0])
def test_clipping_switches_off(max_grad_norm: float | None) -> None:
    group = LambGroup([np.ones(2)], max_grad_norm=max_grad_norm)
    trace = LambOracle([group]).step([np.full(2, 100.0)])
    assert trace is not None
    assert math.isnan(trace.grad_norm)
    assert group.exp_avgs[0] == pytest.approx([10.0, 10.0])


def test_a_group_that_does_not_clip_counts_towards_the_norm() -> None:
    groups = [LambGroup([np.ones(1)]), LambGroup([np.ones(1)], max_grad_norm=None)]
    oracle = LambOracle(groups)
    trace = oracle.step([np.full(1, 3.0), np.full(1, 4.0)])
    assert trace is not None
    assert trace.grad_norm == 5.0
    assert [group.exp_avgs[0][0] for group in groups] == pytest.approx([0.1 * 3.0 / 5.0, 0.4])


def test_gradients_are_unscaled_and_skipped() -> None:
    plain, scaled = (LambOracle([LambGroup([np.ones(2)])]) for _ in range(2))
    plain.step([np.array([3.0, 4.0])])
    trace = scaled.step([np.array([3.0, 4.0]) * 1024], grad_scale=1024.0)
    assert trace is not None
    assert trace.grad_norm == 5.0
    assert (scaled.groups[0].params[0] == plain.groups[0].params[0]).all()

    before = scaled.groups[0].params[0].copy()
    assert scaled.step([np.array([1.0, np.inf])]) is None
    assert scaled.step([np.array([1.0, 1e30])]) is None  # its square overflows float32
    assert scaled.step([np.array([1.0, 1.0])], found_inf=True) is None
    assert scaled.step([None]) is None
    assert (scaled.groups[0].params[0] == before).all()
    assert (scaled.skipped_steps, scaled.groups[0].steps) == (3, [1])

    measuring = LambOracle([LambGroup([np.ones(2)], max_grad_norm=None)], skip_nonfinite=True)
    assert measuring.step([np.array([1.0, np.nan])]) is None
    trace = measuring.step([np.array([3.0, 4.0])])
    assert trace is not None
    assert (trace.grad_norm, trace.skipped_steps) == (5.0, 1)


def test_a_parameter_without_gradient_takes_no_part(rng: np.random.Generator) -> None:
    """Late parameters and late groups have a bias correction of their own."""
    p, g = rng.standard_normal((2, 7))
    alone = LambGroup([p])
    LambOracle([alone]).step([g])

    oracle = LambOracle([LambGroup([np.ones(1), p])])
    oracle.step([np.zeros(1), None])
    trace = oracle.step([np.zeros(1), None])
    assert trace is not None
    assert trace.steps == [2, 0]
    assert math.isnan(trace.trust_ratios[1])
    assert (oracle.groups[0].params[1] == p).all()
    oracle.add_group(LambGroup([p]))
    trace = oracle.step([None, g, None])
    assert trace is not None
    assert trace.steps == [2, 1, 0]
    np.testing.assert_array_equal(oracle.groups[0].params[1], alone.params[0])
    oracle.step([None, None, g])
    np.testing.assert_array_equal(oracle.groups[1].params[0], alone.params[0])
