"""The mean rise at Gaussian displacements, against its closed form for a quadratic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscapes import Quadratic, Weights, symmetric

from yfkernels.analysis import sharpness
from yfkernels.analysis.landscape import MeanSharpness


@pytest.mark.parametrize("adaptive", [False, True])
def test_half_the_trace(adaptive: bool, rng: np.random.Generator) -> None:
    """E = ½ sigma² tr(S A S), Var of a sample = ½ sigma⁴ tr((S A S)²); S = I or |x|. A slope that
    is much larger than the curvature makes no noise."""
    a, x, sigma, samples = symmetric(rng, [-1.0, 0.5, 1.0, 3.0]), rng.normal(size=4), 1e-2, 400
    quadratic = Quadratic(a, 100.0 * rng.normal(size=4), x)
    scaled = a * np.outer(np.abs(x), np.abs(x)) if adaptive else a
    found = sharpness(
        quadratic.model, quadratic.loss, quadratic.loader, "random",
        sigma=sigma, adaptive=adaptive, samples=samples,
    )  # fmt: skip
    assert isinstance(found, MeanSharpness)
    deviation = sigma**2 * math.sqrt(np.trace(scaled @ scaled) / 2.0 / samples)
    assert found.standard_error == pytest.approx(deviation, rel=0.3)
    assert abs(found.value - 0.5 * sigma**2 * np.trace(scaled)) < 5.0 * deviation
    assert found.evaluations.losses == 2 * samples + 1


def test_the_seed_decides(rng: np.random.Generator) -> None:
    quadratic = Quadratic(symmetric(rng, [1.0, 2.0]), np.zeros(2), rng.normal(size=2))
    values = [
        sharpness(quadratic.model, quadratic.loss, quadratic.loader, "random", seed=seed).value
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -1.0}, "Invalid sigma value: -1.0"),
        ({"adaptive": 1}, "Invalid adaptive value: 1; it must be True or False"),
        ({"samples": 1}, "Invalid samples value: 1; it must be at least 2"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharpness(Weights(torch.ones(2)), F.mse_loss, [], "random", **options)
