"""The oracle of the preconditioned mode against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oracle.preconditioned import PreconditionedGroup, PreconditionedOracle
from oracle.yellowfin import cubic_root

FLOOR = 2e-6  # the metric's floor, 1e-6 t, is left out of most numbers here


def test_two_steps_of_two_elements() -> None:
    """From (3, 4) along gradients (1, -7) and (2, 6)."""
    group = PreconditionedGroup([np.array([3.0, 4.0])])
    oracle = PreconditionedOracle([group])

    first = oracle.step([np.array([1.0, -7.0])])
    assert first is not None
    # ‖x_0‖ = 5 and n = 2: a travel of 1e-3 * 6 / sqrt(2) in each element, half of it at once
    lr = 0.003 / math.sqrt(2.0)
    assert first.lr == pytest.approx(lr, rel=1e-15)
    assert first.momentum == 0.5
    assert first.radius == pytest.approx(0.006 / (math.sqrt(2.0) * 5.0), rel=1e-15)  # t = 5
    assert first.grad_norm == pytest.approx(math.sqrt(50.0), rel=1e-15)
    assert (first.h_min, first.h_max, first.variance, first.distance) == (0.0, 0.0, 0.0, 0.0)
    u = np.array([1.0 / 1.000005, -7.0 / 7.000005])  # q: |g|, and the floor 1e-6 * 5
    np.testing.assert_allclose(group.squares[0], [0.001, 0.049], rtol=1e-12)
    np.testing.assert_allclose(group.buffers[0], -lr * u, rtol=1e-12)
    np.testing.assert_allclose(group.params[0], [3.0 - lr * u[0], 4.0 - lr * u[1]], rtol=1e-15)

    second = oracle.step([np.array([2.0, 6.0])])
    assert second is not None
    # G = 1 + 7, so h = 5 * 8, and the same h_min, h_max and variance; distance 1 / sqrt(h)
    assert second.h_min == pytest.approx(40.0, rel=FLOOR)
    assert second.h_max == pytest.approx(40.0, rel=FLOOR)
    assert second.variance == pytest.approx(40.0, rel=FLOOR)
    assert second.distance == pytest.approx(1.0 / math.sqrt(40.0), rel=FLOOR)
    assert second.momentum == 0.5
    # W: an element moved by -lr u and 2 x_0 - lr u is the other factor
    growth = -1.0 * lr * (6.0 - lr) + 7.0 * lr * (8.0 + lr)
    radius = math.sqrt(growth / 5.0)
    assert radius > 0.006 * math.sqrt(40.0) / (math.sqrt(2.0) * 5.0)
    assert second.radius == pytest.approx(radius, rel=FLOOR)
    # mean squares 25 and 20, debiased by 1 - 0.999²
    scale = math.sqrt((0.999 * 25.0 + 20.0) / 1.999)
    lr_2 = 0.5 * scale * radius / math.sqrt(40.0)
    assert second.lr == pytest.approx(lr_2, rel=FLOOR)
    assert second.clip_coefficient == 1.0  # ‖g‖² went from 50 to 40
    s = np.array([0.999 * 0.001 + 0.004, 0.999 * 0.049 + 0.036])
    q = np.sqrt(s / 0.001999) + 1e-6 * scale
    v = -0.5 * lr * u - lr_2 * np.array([2.0, 6.0]) / q
    np.testing.assert_allclose(group.squares[0], s, rtol=1e-12)
    np.testing.assert_allclose(group.buffers[0], v, rtol=2.0 * FLOOR)
    x = np.array([3.0 - lr * u[0], 4.0 - lr * u[1]]) + v
    np.testing.assert_allclose(group.params[0], x, rtol=FLOOR)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6])
def test_one_element_goes_distance_over_gradients(size: float) -> None:
    """u is 1 and each h is g²: lr = r / (2 sqrt(k)), whatever the gradient's size.

    The cubic has no say: (1 - x)³ = x / 2 at x = 0.41, a momentum below 1/2.
    """
    group = PreconditionedGroup([np.array([2.0])])
    oracle = PreconditionedOracle([group])
    x, v, radius = 2.0, 0.0, 0.003
    for k in range(12):
        trace = oracle.step([np.array([size])])
        assert trace is not None
        radius = max(radius, math.sqrt(abs(x * x - 4.0)))
        v = 0.5 * v - 0.5 * radius / math.sqrt(max(k, 1))
        x += v
        assert trace.momentum == 0.5
        assert trace.radius * (size if k == 0 else 1.0) == pytest.approx(radius, rel=1e-4)
        np.testing.assert_allclose(group.params[0], [x], rtol=1e-4)
        if k:
            assert trace.variance == pytest.approx(size**2, rel=FLOOR)


def test_momentum_of_two_measurements() -> None:
    """h is 1 and then 10⁴, of one element whose q is t: far more than KAPPA apart."""
    group = PreconditionedGroup([np.array([2.0])])
    oracle = PreconditionedOracle([group], clip=None)
    for g in (1.0, 100.0, 1.0):
        trace = oracle.step([np.array([g])])
    assert trace is not None
    # averages with weights 0.0099 and 0.01, debiased by 0.0199
    assert trace.h_max == pytest.approx(math.exp(math.log(1e4) * 100.0 / 199.0), rel=3.0 * FLOOR)
    assert trace.h_min == pytest.approx(trace.h_max / 30.0, rel=1e-12)
    variance = (0.99 + 1e4) / 1.99
    distance = (0.99 * 1.0 + (0.99 + 100.0) / (0.99 + 1e4)) / 1.99
    assert trace.variance == pytest.approx(variance, rel=3.0 * FLOOR)
    assert trace.distance == pytest.approx(distance, rel=3.0 * FLOOR)
    x = cubic_root(distance**2 * trace.h_min**2 / (2.0 * variance))
    assert x**2 > 0.5
    assert trace.momentum == pytest.approx(x**2, rel=1e-5)
    # A = 1 + 10⁴; t² of mean squares 1, 10⁴ and 1, debiased by 1 - 0.999³
    scale = math.sqrt((0.999**2 + 0.999 * 1e4 + 1.0) * 0.001 / (1.0 - 0.999**3))
    lr = (1.0 - x**2) * scale * trace.radius / math.sqrt(1.0 + 1e4)
    assert trace.lr == pytest.approx(lr, rel=1e-5)


def test_clips_by_hand() -> None:
    """‖g‖ 1, 8, 100, then 1 forty times and 4: what each guard leaves of it."""
    oracle = PreconditionedOracle([PreconditionedGroup([np.array([1.0])])])
    seen = []
    for g in (1.0, 8.0, 100.0, *[1.0] * 40, 4.0):
        trace = oracle.step([np.array([g])])
        assert trace is not None
        seen.append(trace.clip_coefficient)
    # step 1 is calmed to the envelope, which is 1 before it; of logarithms, ln 64 / 1.99 with it
    assert seen[1] == pytest.approx(1.0 / 8.0)
    envelope = math.exp(math.log(64.0) / 1.99)
    # step 2 is clipped to 10 sqrt(envelope) and calmed to sqrt(envelope)
    assert seen[2] == pytest.approx(math.sqrt(envelope) / 100.0)
    assert seen[3:43] == [1.0] * 40
    # the last is below the envelope, but above twice the root of what is recent
    squares = [1.0, 64.0, 100.0 * envelope, *[1.0] * 40]
    recent = 0.0
    for square in squares:
        recent = 0.9 * recent + 0.1 * square
    recent /= 1.0 - 0.9**43
    assert 2.0 * math.sqrt(recent) < 4.0 < math.sqrt(oracle.clipped.high)
    assert seen[43] == pytest.approx(2.0 * math.sqrt(recent) / 4.0)


def test_decoupled_decay_at_its_bound_forgets_the_parameter() -> None:
    """lr / (1 - mu) times the decay is 1 at most: nothing of x is kept then, and v replaces it."""
    group = PreconditionedGroup(
        [np.array([8.0])], weight_decay=1e3, decoupled_weight_decay=True, lr=1e6
    )
    trace = PreconditionedOracle([group]).step([np.array([3.0])])
    assert trace is not None
    assert trace.lr == pytest.approx(0.5 / 1e3, rel=1e-15)
    np.testing.assert_allclose(group.params[0], [-0.5 / 1e3], rtol=FLOOR)
    np.testing.assert_allclose(group.params[0], group.buffers[0], rtol=1e-12)


def test_coupled_decay_is_in_the_direction() -> None:
    """d = 3 - 0.5 * 8 = -1 goes up; the metric is |d|, the clocks are the gradient's."""
    group = PreconditionedGroup([np.array([8.0])], weight_decay=0.5, maximize=True)
    oracle = PreconditionedOracle([group])
    trace = oracle.step([np.array([3.0])])
    assert trace is not None
    assert trace.lr == pytest.approx(0.5e-3 * 9.0)
    np.testing.assert_allclose(group.squares[0], [1e-3 * 1.0], rtol=1e-12)
    np.testing.assert_allclose(group.params[0], [8.0 - trace.lr], rtol=1e-8)
    trace = oracle.step([np.array([3.0])])
    assert trace is not None
    assert trace.variance == pytest.approx(3.0 * 1.0, rel=4.0 * FLOOR)  # t = 3, G = 1


def test_late_parameter_has_a_clock_of_its_own() -> None:
    """Its first square is debiased by 1 - 0.999, and n counts what has a gradient."""
    group = PreconditionedGroup([np.array([1.0]), np.array([2.0, 2.0, 2.0])])
    oracle = PreconditionedOracle([group], clip=None)
    for _ in range(3):
        oracle.step([np.array([2.0]), None])
    assert oracle.scale == pytest.approx(2.0)
    assert group.steps == [3, 0]
    trace = oracle.step([None, np.array([4.0, -4.0, 4.0])])
    assert trace is not None
    assert group.steps == [3, 1]
    np.testing.assert_allclose(group.buffers[1], trace.lr * np.array([-1.0, 1.0, -1.0]), rtol=FLOOR)
    scale = math.sqrt((4.0 * (0.999 + 0.999**2 + 0.999**3) + 16.0) * 0.001 / (1.0 - 0.999**4))
    assert oracle.scale == pytest.approx(scale)


def test_what_cannot_be_learned_from_changes_nothing() -> None:
    group = PreconditionedGroup([np.array([1.0])], weight_decay=0.1)
    oracle = PreconditionedOracle([group])
    assert oracle.step([np.array([0.0])]) is None
    oracle.step([np.array([1.0])])
    before = (group.params[0].copy(), group.squares[0].copy(), oracle.k)
    for bad in (math.nan, math.inf, 1e30, 0.0):
        oracle.step([np.array([bad])])
    assert (group.params[0], group.squares[0], oracle.k) == before
    assert oracle.skipped_steps == 3
    assert oracle.last is not None
    assert oracle.last.skipped_steps == 3
