"""SingleStep on the host: the closed form, over the whole range, to the last digits."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from yfkernels import single_step
from yfkernels.ops.backends import backend_of

EPS = Decimal("1e-6")


@pytest.fixture(params=["native", "torch"], autouse=True)
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled module, and as a machine without it computes."""
    native = backend_of("native", "cpu")
    reason = native.unusable("cpu")
    if request.param == "torch":
        monkeypatch.setattr(native, "unusable", lambda device_type: "switched off by the test")
    elif reason:
        pytest.skip(reason)


def exact(distance: float, variance: float, h_min: float, h_max: float) -> tuple[Decimal, Decimal]:
    """(lr, momentum) in 60 digits: y³ + p y = p for y = 1 - x by bisection, then the floor."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -99999, 99999
        d, c, lo, hi = (Decimal(v) + EPS for v in (distance, variance, h_min, h_max))
        p = d * d * lo * lo / (2 * c)
        # y in [y0, 1]: the floor of mu is a ceiling of y. Bisect on a grid of relative fineness.
        low, high = Decimal(0), Decimal(1)
        for _ in range(2500):
            middle = (low * high).sqrt() if low > 0 else high / 1000
            if middle**3 + p * middle > p:
                high = middle
            else:
                low = middle
            if low > 0 and high - low < high * Decimal("1e-40"):
                break
        y = high
        # x = y³ / p keeps its digits where y is nearly 1.
        x = y**3 / p if p > 1 else 1 - y
        root = max(hi / lo, 1 + EPS).sqrt()
        x_floor = (root - 1) / (root + 1)
        if x < x_floor:
            x, y = x_floor, 2 / (root + 1)
        return y * y / lo, x * x


def assert_exact(distance: float, variance: float, h_min: float, h_max: float) -> None:
    lr, momentum = single_step(distance, variance, h_min, h_max)
    expected_lr, expected_momentum = exact(distance, variance, h_min, h_max)
    # x = sqrt(mu) and 1 - x are good to some 2^-53, however small one of them is.
    error = 16 * 2.0**-53
    x = math.sqrt(float(expected_momentum))
    y = math.sqrt(float(expected_lr) * (h_min + 1e-6))
    lr_error = (2 * y * error + error**2) / (h_min + 1e-6)
    assert isinstance(lr, float)
    assert isinstance(momentum, float)
    assert lr == pytest.approx(float(expected_lr), rel=1e-14, abs=lr_error)
    assert momentum == pytest.approx(float(expected_momentum), rel=0, abs=2 * x * error + error**2)


@pytest.mark.parametrize("exponent", range(-24, 301, 12))
def test_whole_range_of_p(exponent: int) -> None:
    """p = 10^exponent through the distance, with no floor in the way."""
    distance = math.sqrt(2.0 * 10.0**exponent)
    assert_exact(distance, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("scale", [1e-150, 1e-20, 1.0, 1e20, 1e150])
def test_random_values(scale: float, rng: np.random.Generator) -> None:
    for _ in range(200):
        distance, variance, h_min = 10.0 ** rng.uniform(-8, 8, size=3)
        h_max = h_min * 10.0 ** rng.uniform(0, 12)
        assert_exact(float(distance), float(variance) * scale, float(h_min), float(h_max))


@pytest.mark.parametrize("ratio", [1.0, 1.0 + 1e-9, 1.001, 2.0, 1e4, 1e12, 1e300])
def test_momentum_floor(ratio: float) -> None:
    """A huge distance asks for no momentum: the curvature range alone decides."""
    assert_exact(1e6, 1e-3, 1.0, ratio)


@pytest.mark.parametrize(
    "values",
    [
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 1e300, 0.0, 0.0),
        (0.0, 1.0, 1.0, 1.0),
        (1e300, 0.0, 1e300, 1e300),
        (1e300, 1.0, 1e-300, 1e300),
        (1e-300, 1e-300, 1e-300, 1e-300),
        (1.0, 0.0, 1e13, 1e13),
        (1.0, 1e-6, 1.0, 0.5),  # h_max below h_min, as rounding may make it: r is floored
    ],
)
def test_corners(values: tuple[float, float, float, float]) -> None:
    lr, momentum = single_step(*values)
    assert 0.0 <= lr < math.inf
    assert 0.0 <= momentum <= 1.0
    assert_exact(*values)


def test_is_the_minimum(rng: np.random.Generator) -> None:
    """No feasible neighbour is better: the definition, not the formula."""
    for _ in range(50):
        distance, variance, h_min = (float(v) for v in 10.0 ** rng.uniform(-3, 3, size=3))
        h_max = h_min * float(10.0 ** rng.uniform(0, 3))
        _, best = single_step(distance, variance, h_min, h_max)

        def cost(mu: float, d: float = distance, c: float = variance, h: float = h_min) -> float:
            alpha = (1.0 - math.sqrt(mu)) ** 2 / (h + 1e-6)
            return mu * (d + 1e-6) ** 2 + alpha**2 * (c + 1e-6)

        root = math.sqrt(h_max / h_min)
        floor = ((root - 1.0) / (root + 1.0)) ** 2
        for mu in np.linspace(floor * (1 + 1e-6), 1.0, 200):
            assert cost(best) <= cost(float(mu)) * (1.0 + 1e-9)


def test_curvature_and_momentum_are_monotonic() -> None:
    by_ratio = [single_step(1.0, 1.0, 1.0, r)[1] for r in np.geomspace(1, 1e9, 40)]
    by_noise = [single_step(1.0, c, 1.0, 2.0)[1] for c in np.geomspace(1e-9, 1e9, 40)]
    assert by_ratio == sorted(by_ratio)
    assert by_noise == sorted(by_noise)


@pytest.mark.parametrize("bad", [math.nan, -1.0, math.inf])
@pytest.mark.parametrize("name", ["distance", "variance", "h_min", "h_max"])
def test_bad_input(name: str, bad: float) -> None:
    values = {"distance": 1.0, "variance": 1.0, "h_min": 1.0, "h_max": 2.0, name: bad}
    with pytest.raises(ValueError, match=name) as error:
        single_step(**values)
    assert str(bad) in str(error.value)
