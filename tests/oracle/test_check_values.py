"""The oracle itself: the published check values, and what cubic and sketch promise."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest

from oracle.elements import BUCKETS
from oracle.yellowfin import (
    OracleGroup,
    Trace,
    YellowFinOracle,
    cubic_root,
    sketch,
    sketch_sign,
)

# The check values were printed by the float32 reference: exp() of a float32 near 20 is good to
# 1e-5, and the last digits are those of float32.
FLOAT32_PRINT = 2e-5


def ramp(steps: int, log_smooth: bool) -> Trace:
    """1,000,001 gradient entries, all i+1 at iteration i."""
    groups = [OracleGroup([np.zeros(1_000_000), np.zeros(1)])]
    oracle = YellowFinOracle(groups, clip=None, log_smooth=log_smooth, robust=False)
    for i in range(steps):
        trace = oracle.step([np.full(1_000_000, i + 1.0), np.full(1, i + 1.0)])
    assert trace is not None
    return trace


@pytest.mark.parametrize(
    ("steps", "log_smooth", "expected"),
    [
        (
            2,
            False,
            {
                "h_max": 2500753,
                "h_min": 1000001,
                "variance": 250000,
                "distance": 7.998595e-4,
                "momentum": 0.08121323,
            },
        ),
        (
            50,
            False,
            {
                "h_max": 8.691442e8,
                "h_min": 2.122749e8,
                "variance": 2.082239e8,
                "distance": 1.152097e-4,
                "momentum": 0.1145878,
            },
        ),
        (50, True, {"h_max": 3.884502e8, "h_min": 2.361688e7, "momentum": 0.5782207}),
    ],
)
def test_reproduces_the_published_trace(
    steps: int, log_smooth: bool, expected: dict[str, float]
) -> None:
    trace = ramp(steps, log_smooth)
    for name, value in expected.items():
        assert getattr(trace, name) == pytest.approx(value, rel=FLOAT32_PRINT), name


@pytest.mark.parametrize("exponent", range(-300, 301, 20))
def test_cubic_root_solves_the_cubic(exponent: int) -> None:
    p = 10.0**exponent
    x = cubic_root(p)
    # The residual changes sign within a few ulp of the root, in arithmetic that is exact here.
    with localcontext() as context:
        context.prec = 700
        low, high = (Decimal(x * (1.0 + s * 2.0**-50)) for s in (-1, 1))
        assert (1 - low) ** 3 >= Decimal(p) * low
        assert (1 - high) ** 3 <= Decimal(p) * high
    assert cubic_root(0.0) == 1.0


def test_sketch_estimates_the_squared_norm(rng: np.random.Generator) -> None:
    gradient = rng.standard_normal(200_000) + 0.3
    buckets = sketch([gradient, None], [gradient.size, 7])
    # Standard error sqrt(2 / buckets) = 2.2 %; 6 of them leave one failure in 10^9.
    assert buckets @ buckets == pytest.approx(gradient @ gradient, rel=6 * (2 / BUCKETS) ** 0.5)


def test_sketch_is_linear_and_sees_the_position(rng: np.random.Generator) -> None:
    sizes = [5000, 3, 4096]
    a, b = ([rng.standard_normal(n) for n in sizes] for _ in range(2))
    both = [2.0 * x - y for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(
        sketch(both, sizes), 2 * sketch(a, sizes) - sketch(b, sizes), atol=1e-12
    )
    assert not np.allclose(sketch(a, sizes), sketch(a[::-1], sizes[::-1]))


def test_signs_are_balanced_and_repeatable() -> None:
    signs = sketch_sign(np.arange(1 << 20, dtype=np.uint64))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.sum()) < 6 * 2**10
    # Worked by hand from the definition: block 0 mixes to 0, so its 32 signs are all plus.
    assert signs[:32].min() == 1.0
    assert 0 < (signs[32:64] < 0).sum() < 32


@pytest.mark.parametrize("polyak", [False, True])
def test_trust_ratio_by_hand(polyak: bool) -> None:
    """Two steps along (3, 4) from (0, 2): each lr ‖p‖ long, whatever the size of the gradient."""
    group = OracleGroup([np.array([0.0, 2.0])], weight_decay=0.5, decoupled_weight_decay=True)
    form = "polyak" if polyak else "buffer"
    oracle = YellowFinOracle(
        [group], trust_ratio=True, robust=False, initial_lr=0.1, momentum_form=form
    )
    oracle.step([np.array([3.0, 4.0])])
    # 2 - 0.1 * 0.5 * 2 of decay, and 0.1 * 2 along (0.6, 0.8)
    np.testing.assert_allclose(group.params[0], [-0.12, 1.74], rtol=1e-15)
    assert group.trust_ratios == [pytest.approx(0.4)]
    trace = oracle.step([np.array([30.0, 40.0])])
    assert trace is not None
    length = trace.lr * np.hypot(0.12, 1.74)
    kept = 1.0 - 0.5 * trace.lr
    expected = [-0.12 * kept - 0.6 * length, 1.74 * kept - 0.8 * length]
    np.testing.assert_allclose(group.params[0], expected, rtol=1e-12)


def test_trust_ratio_of_zero_norms_is_one() -> None:
    group = OracleGroup([np.zeros(2), np.ones(2)])
    oracle = YellowFinOracle([group], trust_ratio=True, robust=False, initial_lr=0.1, clip=None)
    oracle.step([np.ones(2), np.zeros(2)])
    assert group.trust_ratios == [1.0, 1.0]
    np.testing.assert_allclose(group.params, [[-0.1, -0.1], [1.0, 1.0]])
