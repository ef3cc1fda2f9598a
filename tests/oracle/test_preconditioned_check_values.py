"""The oracle of the preconditioned mode against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oracle.codes import VALUES
from oracle.preconditioned import CompactGroup, PreconditionedGroup, PreconditionedOracle
from oracle.yellowfin import cubic_root

FLOOR = 2.0**-16
ROUGH = 2.0**-15  # where the floor is left out


def test_two_steps_of_two_elements() -> None:
    """From (3, 4) along gradients (1, -7) and (2, 6)."""
    group = PreconditionedGroup([np.array([3.0, 4.0])])
    oracle = PreconditionedOracle([group])

    first = oracle.step([np.array([1.0, -7.0])])
    assert first is not None
    # ‖x_0‖ = 5 and n = 2: twice a travel of 1e-2 * 6 / sqrt(2) in each element, half of it at once
    lr = travel = 0.06 / math.sqrt(2.0)
    assert first.lr == pytest.approx(lr, rel=1e-15)
    assert first.momentum == 0.5
    begun = 0.06 / (math.sqrt(2.0) * 5.0)  # t = 5
    assert first.distance_traveled == pytest.approx(begun, rel=1e-15)
    assert first.grad_norm == pytest.approx(math.sqrt(50.0), rel=1e-15)
    assert (first.h_min, first.h_max, first.variance, first.distance) == (0.0, 0.0, 0.0, 0.0)
    d = np.array([0.2, -1.4])  # in units of t
    u = d / (np.abs(d) + FLOOR)
    np.testing.assert_allclose(group.squares[0], 0.001 * d**2, rtol=1e-12)
    np.testing.assert_allclose(group.buffers[0], -lr * u, rtol=1e-12)
    np.testing.assert_allclose(group.params[0], [3.0 - lr * u[0], 4.0 - lr * u[1]], rtol=1e-15)

    second = oracle.step([np.array([2.0, 6.0])])
    assert second is not None
    # h = t² G, 40 but for the floor, is h_min, h_max and variance; distance is 1 / sqrt(h)
    h = 25.0 * (0.2 * u[0] - 1.4 * u[1])
    assert h == pytest.approx(40.0, rel=ROUGH)
    assert second.h_min == pytest.approx(h, rel=1e-12)
    assert second.h_max == pytest.approx(h, rel=1e-12)
    assert second.variance == pytest.approx(h, rel=1e-12)
    assert second.distance == pytest.approx(1.0 / math.sqrt(h), rel=1e-12)
    assert second.momentum == 0.5
    # W: an element has moved by -lr u, 2 x_0 - lr u is the other factor, and q u is d
    growth = -0.2 * lr * (6.0 - lr * u[0]) + 1.4 * lr * (8.0 - lr * u[1])
    walk = (4.0 - 1.0) * travel**2 * (0.2 * u[0] - 1.4 * u[1])
    radius = math.sqrt(growth - walk)
    assert radius > 0.006 * math.sqrt(h) / (math.sqrt(2.0) * 5.0)
    assert second.distance_traveled == pytest.approx(radius, rel=1e-12)
    # mean squares 25 and 20, debiased by 1 - 0.999²
    scale = math.sqrt((0.999 * 25.0 + 20.0) / 1.999)
    metric_size = math.sqrt((0.999 + 20.0 / scale**2) / 1.999)  # mean squares of d
    lr_2 = 2.0 * 0.5 * metric_size * scale * radius / math.sqrt(h)
    assert second.lr == pytest.approx(lr_2, rel=1e-12)
    assert second.clip_coefficient == 1.0  # ‖g‖² went from 50 to 40
    d_2 = np.array([2.0, 6.0]) / scale
    s = 0.999 * 0.001 * d**2 + 0.001 * d_2**2
    v = -0.5 * lr * u - lr_2 * d_2 / (np.sqrt(s / 0.001999) + FLOOR)
    np.testing.assert_allclose(group.squares[0], s, rtol=1e-12)
    np.testing.assert_allclose(group.buffers[0], v, rtol=1e-12)
    x = np.array([3.0 - lr * u[0], 4.0 - lr * u[1]]) + v
    np.testing.assert_allclose(group.params[0], x, rtol=1e-14)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6])
def test_one_element_goes_distance_over_gradients(size: float) -> None:
    """u is 1 and each h is g²: lr = r / sqrt(k), whatever the gradient's size.

    The cubic has no say: (1 - x)³ = x / 2 at x = 0.41, a momentum below 1/2.
    """
    group = PreconditionedGroup([np.array([2.0])])
    oracle = PreconditionedOracle([group])
    x, v, radius, walk, travel = 2.0, 0.0, 0.03, 0.0, 0.0
    for k in range(12):
        trace = oracle.step([np.array([size])])
        assert trace is not None
        growth = x * x - 4.0  # below 0 until x is beyond -2
        walk = min(walk + 3.0 * travel**2, max(growth, 0.0))
        radius = max(radius, math.sqrt(abs(growth) - walk))
        travel = radius / math.sqrt(max(k, 1))
        v = 0.5 * v - travel
        x += v
        assert trace.momentum == 0.5
        seen = trace.distance_traveled * (size if k == 0 else 1.0)
        assert seen == pytest.approx(radius, rel=1e-4, abs=0.0)
        np.testing.assert_allclose(group.params[0], [x], rtol=1e-4)
        if k:
            assert trace.variance == pytest.approx(size**2, rel=ROUGH, abs=0.0)


def test_momentum_of_two_measurements() -> None:
    """h is g² c / q, of gradients 1 and 100: far more than KAPPA apart."""
    group = PreconditionedGroup([np.array([2.0])])
    oracle = PreconditionedOracle([group], clip=None)
    for g in (1.0, 100.0, 1.0):
        trace = oracle.step([np.array([g])])
    assert trace is not None
    # the second d² is 10⁴ over the mean of 1 and 10⁴, and s the mean of 1 and that
    d_sq = 1e4 * 1.999 / (0.999 + 1e4)
    metric_size = math.sqrt((0.999 + d_sq) / 1.999)  # of one element: its q, but for the floor
    h = (1.0 / (1.0 + FLOOR), 1e4 * metric_size / (metric_size + FLOOR))
    # averages with weights 0.0099 and 0.01, debiased by 0.0199
    logs = 0.99 * math.log(h[0]) + math.log(h[1])
    assert trace.h_max == pytest.approx(math.exp(logs / 1.99), rel=1e-12)
    assert trace.h_min == pytest.approx(trace.h_max / 30.0, rel=1e-12)
    variance = (0.99 * h[0] + h[1]) / 1.99
    ratio = (0.99 * math.sqrt(h[0]) + math.sqrt(h[1])) / (0.99 * h[0] + h[1])
    distance = (0.99 / math.sqrt(h[0]) + ratio) / 1.99
    assert trace.variance == pytest.approx(variance, rel=1e-12)
    assert trace.distance == pytest.approx(distance, rel=1e-12)
    x = cubic_root(distance**2 * trace.h_min**2 / (2.0 * variance))
    assert x**2 > 0.5
    assert trace.momentum == pytest.approx(x**2, rel=1e-12)
    # A is the sum of both; t² of mean squares 1, 10⁴ and 1, debiased by 1 - 0.999³
    fresh = 0.001 / (1.0 - 0.999**3)
    scale = math.sqrt((0.999**2 + 0.999 * 1e4 + 1.0) * fresh)
    metric_size = math.sqrt((0.999**2 + 0.999 * d_sq + 1.0 / scale**2) * fresh)
    lr = 2.0 * (1.0 - x**2) * metric_size * scale * trace.distance_traveled / math.sqrt(h[0] + h[1])
    assert trace.lr == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize("multipliers", [(0.0, 1.0), (0.5, 0.5), (2.0, 2.0), (1.0, 3.0)])
def test_the_walk_is_no_distance(multipliers: tuple[float, float]) -> None:
    """T² d u is what a step T along u adds if it is random, with the longest step of any group."""
    groups = [PreconditionedGroup([np.array([x])], lr=m) for x, m in zip((3.0, 4.0), multipliers)]
    oracle = PreconditionedOracle(groups, clip=None)
    oracle.step([np.array([1.0]), np.array([-7.0])])
    x = np.concatenate([group.params[0] for group in groups])
    second = oracle.step([np.array([2.0]), np.array([6.0])])
    assert second is not None
    d, travel = np.array([0.2, -1.4]), 0.06 / math.sqrt(2.0)  # t = 5, and q has a mean square of 1
    q = np.abs(d) + FLOOR
    squares = travel**2 * d**2 / q
    longest = 2.0 * max(1.0, *multipliers)
    missing = longest**2 - (2.0 * np.array(multipliers)) ** 2
    growth = ((x**2 - [9.0, 16.0]) * q + missing * squares).sum()
    assert float(oracle.growth) == pytest.approx(growth, rel=1e-12)
    assert growth > oracle.walk == pytest.approx((longest**2 - 1.0) * squares.sum(), rel=1e-12)
    first = travel / 5.0 * math.sqrt(25.0 * (d**2 / q).sum())
    radius = max(first, math.sqrt(growth - oracle.walk))
    assert second.distance_traveled == pytest.approx(radius, rel=1e-12)


def test_no_more_is_taken_off_than_there_is() -> None:
    """Of gradients of alternating sign x stays where it is: there is no distance but the first."""
    group = PreconditionedGroup([np.array([3.0])], lr=4.0)
    oracle = PreconditionedOracle([group], clip=None)
    all_of_it = 0
    for k in range(20):
        oracle.step([np.array([1.0 if k % 2 else -1.0])])
        growth = max(float(oracle.growth), 0.0)
        assert oracle.walk <= growth
        all_of_it += 0.0 < growth == oracle.walk
    assert all_of_it > 5


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
    np.testing.assert_allclose(group.params[0], [-0.5 / 1e3 / (1.0 + FLOOR)], rtol=1e-12)
    np.testing.assert_allclose(group.params[0], group.buffers[0], rtol=1e-12)


def test_coupled_decay_is_in_the_direction() -> None:
    """d = (0.5 * 8 - 3) / 3 goes down; the metric is |d|, the clocks are the gradient's."""
    group = PreconditionedGroup([np.array([8.0])], weight_decay=0.5, maximize=True)
    oracle = PreconditionedOracle([group])
    trace = oracle.step([np.array([3.0])])
    assert trace is not None
    assert trace.lr == pytest.approx(1e-2 * 9.0)
    np.testing.assert_allclose(group.squares[0], [1e-3 / 9.0], rtol=1e-12)
    u = 1.0 / (1.0 + 3.0 * FLOOR)
    np.testing.assert_allclose(group.params[0], [8.0 - trace.lr * u], rtol=1e-14)
    trace = oracle.step([np.array([3.0])])
    assert trace is not None
    assert trace.variance == pytest.approx(9.0 / 3.0 * u, rel=1e-12)  # t = 3, G = u / 3


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
    scale = math.sqrt((4.0 * (0.999 + 0.999**2 + 0.999**3) + 16.0) * 0.001 / (1.0 - 0.999**4))
    assert oracle.scale == pytest.approx(scale, rel=1e-12)
    lr = trace.lr / (1.0 + FLOOR * scale / 4.0)
    np.testing.assert_allclose(group.buffers[1], lr * np.array([-1.0, 1.0, -1.0]), rtol=1e-12)


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


def test_compact_begins_at_its_first_value_and_keeps_a_neighbour() -> None:
    """The move knows s unrounded; the next step begins with what the code stands for."""
    groups = [kind([np.array([2.0])]) for kind in (CompactGroup, PreconditionedGroup)]
    traces = [PreconditionedOracle([group]).step([np.array([3.0])]) for group in groups]
    assert traces[0] == traces[1]
    s = 0.999 * 2.0**-37 + 0.001
    np.testing.assert_allclose(groups[0].advanced[0], [s], rtol=1e-15)
    np.testing.assert_allclose(groups[0].params[0], groups[1].params[0], rtol=1e-10)  # for 2^-37
    assert groups[0].squares[0] in (2.0**-10, 1.25 * 2.0**-10)  # 0.001 is 1.024 of the first
    assert groups[0].squares[0] in VALUES
