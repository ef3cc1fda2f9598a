"""Adaptive sharpness of quadratics in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscapes import (
    Array,
    Quadratic,
    Weights,
    batches,
    classification,
    corners,
    highest_corner,
    mlp,
    symmetric,
)

from yfkernels.analysis import sharpness
from yfkernels.analysis.landscape import AdaptiveSharpness


def measured(quadratic: Quadratic, **options: Any) -> AdaptiveSharpness:
    found = sharpness(quadratic.model, quadratic.loss, quadratic.loader, "adaptive", **options)
    assert isinstance(found, AdaptiveSharpness)
    return found


def convex(rng: np.random.Generator, slope: float) -> Quadratic:
    a = symmetric(rng, rng.uniform(0.5, 3.0, 3))
    return Quadratic(a, slope * rng.normal(size=3), rng.normal(size=3))


def highest_in_ball(a: Array, g: Array, radius: float) -> float:
    """max g·u + ½ uᵀ A u over ‖u‖ <= radius, A positive: u = (m - A)⁻¹ g with ‖u‖ = radius."""
    values, basis = np.linalg.eigh(a)
    slopes = basis.T @ g
    low = values[-1] + abs(slopes[-1]) / radius  # there ‖u‖ >= radius
    high = values[-1] + np.linalg.norm(slopes) / radius
    for _ in range(200):
        middle = 0.5 * (low + high)
        longer = np.linalg.norm(slopes / (middle - values)) > radius
        low, high = (middle, high) if longer else (low, middle)
    u = slopes / (high - values)
    return float(slopes @ u + 0.5 * values @ u**2)


@pytest.mark.parametrize("rho", [1e-3, 0.5])
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_largest_change_of_each_weight(slope: float, rho: float, rng: np.random.Generator) -> None:
    quadratic = convex(rng, slope)
    rise = highest_corner(quadratic, corners(rho * np.abs(quadratic.x)))
    found = measured(quadratic, rho=rho, p=math.inf, iterations=6, starts=20)
    assert found.value == pytest.approx(rise, rel=1e-6, abs=1e-15)
    assert found.max_loss == pytest.approx(0.5 + rise, rel=1e-12)


@pytest.mark.parametrize("rho", [1e-3, 0.5])
@pytest.mark.parametrize("slope", [1e-6, 1.0])
def test_largest_norm_of_relative_changes(
    slope: float, rho: float, rng: np.random.Generator
) -> None:
    x, g = rng.normal(size=4), slope * rng.normal(size=4)
    scale = np.abs(x)
    scaled = symmetric(rng, [0.5, 1.0, 1.5, 3.0])
    quadratic = Quadratic(scaled / np.outer(scale, scale), g, x)
    # two opposite maxima differ by the slope alone: so many starts that one finds the higher
    found = measured(quadratic, rho=rho, p=2, iterations=40, starts=30)
    rise = highest_in_ball(scaled, g * scale, rho)
    assert found.value == pytest.approx(rise, rel=1e-6)


@pytest.mark.parametrize("p", [2, math.inf])
def test_small_balls_see_the_slope_alone(p: float, rng: np.random.Generator) -> None:
    """rho times the dual norm of |x| g, to first order."""
    quadratic, rho = convex(rng, 1.0), 1e-7
    slopes = np.abs(quadratic.x * quadratic.g)
    dual = slopes.sum() if p == math.inf else np.linalg.norm(slopes)
    assert measured(quadratic, rho=rho, p=p).value == pytest.approx(rho * dual, rel=1e-5)


@pytest.mark.parametrize("p", [2, math.inf])
def test_a_peak_inside_the_ball(p: float, rng: np.random.Generator) -> None:
    """There gamma is halved until it is found."""
    x = rng.uniform(1.0, 2.0, 2)
    a, peak = -np.diag([1.0, 1.5]), 0.3 * x * np.array([0.5, -0.4])
    quadratic = Quadratic(a, -a @ peak, x)
    found = measured(quadratic, rho=0.3, p=p, iterations=300)
    assert found.value == pytest.approx(quadratic.rise(peak), rel=1e-3)


def test_never_below_zero(rng: np.random.Generator) -> None:
    """x itself is in the ball."""
    peak = Quadratic(-np.eye(3), np.zeros(3), rng.normal(size=3))
    assert measured(peak, iterations=1).value == 0.0


def test_weights_that_are_zero_stay(rng: np.random.Generator) -> None:
    quadratic = convex(rng, 1.0)
    quadratic.x[1] = 0.0
    seen = []

    def loss(w: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(w[1].item())
        return quadratic.loss(w, target)

    sharpness(Weights(torch.from_numpy(quadratic.x)), loss, quadratic.loader, "adaptive")
    assert seen == [0.0] * len(seen)


@pytest.mark.parametrize("p", [2, math.inf])
def test_every_point_is_in_the_ball(p: float, rng: np.random.Generator) -> None:
    model, (x, y) = mlp(rng), classification(rng)
    origin = [w.detach().clone() for w in model.parameters()]
    shares = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        parts = [((w - o) / o).flatten() for w, o in zip(model.parameters(), origin)]
        shares.append(float(torch.linalg.vector_norm(torch.cat(parts).detach(), ord=p)))
        return F.cross_entropy(output, target)

    found = sharpness(model, loss, [(x, y)], "adaptive", rho=0.1, p=p, starts=2)
    assert max(shares) == pytest.approx(0.1, rel=1e-12)
    assert found.value > 0.0


def test_defaults_depend_on_p(rng: np.random.Generator) -> None:
    x, y = classification(rng)
    for p, rho in ((2, 0.5), (math.inf, 1e-3)):
        found = sharpness(mlp(rng), F.cross_entropy, batches(x, y), "adaptive", p=p)
        assert found.options["rho"] == rho


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 0.0}, "Invalid rho value: 0.0; it must be finite and > 0"),
        ({"p": 1}, "Invalid p value: 1; it must be 2 or math.inf"),
        ({"iterations": 0}, "Invalid iterations"),
        ({"starts": 0}, "Invalid starts"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharpness(Weights(torch.ones(2)), F.mse_loss, [], "adaptive", **options)
