"""The basin of a curve against a dense search along the same curve."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from yfkernels.lab.robustness.basins import NOWHERE, basin, capped, level


def test_a_tenth_of_the_way_back() -> None:
    assert level(1.0, 1.0) == 1.0
    assert level(1e-3, 1.0) == pytest.approx(1e-3 * 10**0.3)
    assert level(2.0, 4.0) == pytest.approx(2.0 * 2**0.1)
    assert level(0.0, 1.0) > 0.0


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_level_has_the_scale_of_the_loss(scale: float) -> None:
    assert level(0.2 * scale, 3.0 * scale) == pytest.approx(scale * level(0.2, 3.0))


def test_what_diverged_counts_as_the_initial_loss() -> None:
    assert [capped(loss, 3.0) for loss in (1.0, 5.0, math.inf)] == [1.0, 3.0, 3.0]


def test_a_valley() -> None:
    """Losses that fall and rise tenfold a decade: e times the best is 1/ln(10) away."""
    factors = [10.0**half for half in range(-2, 3)]
    losses = [10.0 ** abs(half) for half in range(-2, 3)]
    found = basin(factors, losses, math.e)
    assert (found.low, found.high) == pytest.approx((1 / math.e, math.e))
    assert found.decades == pytest.approx(2 / math.log(10))
    assert not found.is_open


def test_random_curves(rng: np.random.Generator) -> None:
    """Along the interpolated curve, outwards from its lowest point."""
    for _ in range(100):
        logs = np.sort(rng.uniform(-2.0, 2.0, 9))
        heights = rng.uniform(-3.0, 0.0, 9)
        good = rng.uniform(-3.0, 0.0)
        found = basin(list(10.0**logs), list(10.0**heights), float(10.0**good))
        dense = np.linspace(logs[0], logs[-1], 20_001)
        inside = np.interp(dense, logs, heights) <= good
        if heights.min() > good:
            assert found == NOWHERE
            continue
        start = int(np.abs(dense - logs[heights.argmin()]).argmin())
        outside = np.flatnonzero(~inside)
        low = max((at for at in outside if at < start), default=None)
        high = min((at for at in outside if at > start), default=None)
        ends = dense[0 if low is None else low], dense[-1 if high is None else high]
        assert np.log10([found.low, found.high]) == pytest.approx(ends, abs=5e-4)
        assert found.is_open == (low is None or high is None)


def test_nothing_good_is_no_basin() -> None:
    assert basin([0.1, 1.0, 10.0], [2.0, 1.5, 3.0], 1.0).decades == 0.0
