"""How far the loss stays below f + eps: spheres and ellipsoids, where the distance is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscapes import Quadratic, Weights, normal, symmetric
from torch import Tensor

from yfkernels.analysis import sharpness
from yfkernels.analysis.landscape import Flatness
from yfkernels.analysis.landscape.flatness import filter_normalized


def measured(quadratic: Quadratic, **options: Any) -> Flatness:
    options = {"directions": 3, **options}
    found = sharpness(
        quadratic.model, quadratic.loss, quadratic.loader, "epsilon_flatness", **options
    )
    assert isinstance(found, Flatness)
    return found


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("tolerance", [0.1, 1e-4])
def test_a_sphere(curvature: float, tolerance: float, rng: np.random.Generator) -> None:
    """½ c t² ‖x‖² = eps in every direction; rounded down by the tolerance at most."""
    x = rng.normal(size=4)
    sphere = Quadratic(curvature * np.eye(4), np.zeros(4), x)
    truth = math.sqrt(2.0 * 0.1 / curvature) / float(np.linalg.norm(x))
    found = measured(sphere, tolerance=tolerance, limit=100.0)
    for distance in (found.value, *found.distances, *found.along_top):
        assert 1.0 / (1.0 + tolerance) < distance / truth < 1.0 + 1e-9
    assert len(found.distances) == 3
    assert found.converged


def test_the_top_eigenvector(rng: np.random.Generator) -> None:
    x = rng.normal(size=3)
    ellipsoid = Quadratic(symmetric(rng, [0.1, 0.2, 7.0]), np.zeros(3), x)
    found = measured(ellipsoid, eps=0.01, tolerance=1e-4, directions=4, iterations=100)
    truth = math.sqrt(2.0 * 0.01 / 7.0) / float(np.linalg.norm(x))
    assert found.along_top == pytest.approx((truth, truth), rel=2e-4)
    assert found.value == float(np.median(found.distances))
    assert min(found.distances) > truth


def test_two_sides_of_a_slope() -> None:
    """f = s e along both signs of one weight: eps / s uphill, never downhill."""
    slope = Quadratic(np.array([[1e-9]]), np.array([2.0]), np.array([4.0]))
    found = measured(slope, tolerance=1e-4)
    assert sorted(found.along_top) == [pytest.approx(0.1 / 2.0 / 4.0, rel=2e-4), math.inf]
    assert set(found.distances) <= set(found.along_top)


def test_never_within_the_limit() -> None:
    sphere = Quadratic(np.eye(2), np.zeros(2), np.ones(2))
    truth = math.sqrt(2.0 * 0.1) / math.sqrt(2.0)
    assert measured(sphere, limit=1.001 * truth).value < math.inf
    found = measured(sphere, limit=0.999 * truth)
    assert found.value == math.inf
    assert found.along_top == (math.inf, math.inf)
    assert measured(sphere, limit=1e-4).value == math.inf
    assert "inf" in str(found)


def test_a_loss_that_is_not_finite_has_risen() -> None:
    """A wall of NaN at 1.5 times the weight."""

    def wall(w: Tensor, target: Tensor) -> Tensor:
        return 0.0 * (w.square().sum() + (1.5 - w).sqrt().sum())

    found = sharpness(Weights(torch.ones(1).double()), wall, [(torch.ones(1),) * 2],
                      "epsilon_flatness", directions=8, tolerance=1e-4)  # fmt: skip
    assert isinstance(found, Flatness)
    assert {round(d, 3) for d in found.distances} == {0.5, math.inf}


def test_filters_have_the_norms_of_the_weights(rng: np.random.Generator) -> None:
    weights = [normal(rng, 4, 3, 2, 2), normal(rng, 5, 3), normal(rng, 6), torch.zeros(2)]
    weights[1][2] = 0.0
    directions = filter_normalized([torch.randn_like(w) for w in weights], weights)
    for direction, w in zip(directions[:2], weights[:2]):
        torch.testing.assert_close(direction.flatten(1).norm(dim=1), w.flatten(1).norm(dim=1))
    torch.testing.assert_close(directions[2].norm(), weights[2].norm())
    assert not directions[3].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, "Invalid eps value: 0.0"),
        ({"limit": math.inf}, "Invalid limit value: inf"),
        ({"tolerance": 0.0}, "Invalid tolerance"),
        ({"directions": 0}, "Invalid directions"),
        ({"iterations": 0}, "Invalid iterations"),
        ({"hvp": "x"}, "Invalid hvp"),
        ({"per_layer": True}, "Invalid per_layer value: True"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharpness(Weights(torch.ones(2)), F.mse_loss, [], "epsilon_flatness", **options)


def test_refuses_weights_that_are_all_zero() -> None:
    zeros = Quadratic(np.eye(2), np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="a norm of its weights above 0"):
        measured(zeros)
