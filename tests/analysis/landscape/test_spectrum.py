"""The largest eigenvalue and the trace, against dense Hessians and another package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscapes import (
    Quadratic,
    Weights,
    batches,
    classification,
    conv_net,
    dense_hessian,
    mlp,
    symmetric,
    trained,
)
from torch import nn

from yfkernels.analysis import sharpness
from yfkernels.analysis.landscape import LambdaMax, LargestCurvature, MeanSharpness, Surface


def of_quadratic(eigenvalues: list[float], rng: np.random.Generator, **options: Any) -> Any:
    size = len(eigenvalues)
    quadratic = Quadratic(symmetric(rng, eigenvalues), rng.normal(size=size), np.ones(size))
    return sharpness(quadratic.model, quadratic.loss, quadratic.loader, "lambda_max", **options)


NETS = {"mlp": (mlp, (6,)), "conv net": (conv_net, (2, 6, 6))}


@pytest.mark.parametrize(("net", "is_trained"), [("mlp", True), ("conv net", False)])
def test_networks(net: str, is_trained: bool, rng: np.random.Generator) -> None:
    build, inputs = NETS[net]
    model, (x, y) = build(rng), classification(rng, inputs)
    if is_trained:
        trained(model, x, y, steps=30)
    hessian = dense_hessian(model, F.cross_entropy, x, y)
    values = np.linalg.eigvalsh(hessian)
    found = sharpness(
        model, F.cross_entropy, batches(x, y), "lambda_max", iterations=2000, tolerance=1e-4
    )
    assert isinstance(found, LargestCurvature)
    assert found.converged
    assert found.value == pytest.approx(values[-1], rel=1e-6)
    # what a residual promises, early on
    for iterations in (1, 10):
        rough = sharpness(
            model, F.cross_entropy, batches(x, y), "lambda_max", iterations=iterations
        )
        assert isinstance(rough, LargestCurvature)
        assert np.abs(values - rough.value).min() <= rough.residual * (1.0 + 1e-9)
        assert rough.converged == (rough.residual <= 0.01 * abs(rough.value))
    trace = sharpness(model, F.cross_entropy, batches(x, y), "trace", samples=40, tolerance=1e-9)
    assert isinstance(trace, MeanSharpness)
    assert abs(trace.value - hessian.trace()) < 5.0 * trace.standard_error


def test_the_largest_not_that_of_largest_magnitude(rng: np.random.Generator) -> None:
    found = of_quadratic([-5.0, 2.0, 1.0], rng, iterations=200, tolerance=1e-7)
    assert found.value == pytest.approx(2.0, rel=1e-6)
    assert found.converged
    assert of_quadratic([-5.0, -2.0], rng, iterations=200, tolerance=1e-7).value == pytest.approx(
        -2.0, rel=1e-6
    )


def test_no_curvature(rng: np.random.Generator) -> None:
    found = of_quadratic([0.0, 0.0], rng)
    assert found.value == found.residual == 0.0
    assert found.converged
    assert found.evaluations.products == 1


def test_it_stops_when_converged(rng: np.random.Generator) -> None:
    found = of_quadratic([10.0, 1e-3, 1e-3], rng, iterations=50)
    assert found.evaluations.products < 5
    slow = of_quadratic([1.0, 0.999, 0.5], rng, iterations=5, tolerance=1e-6)
    assert not slow.converged
    assert slow.evaluations.products == 5
    assert "not converged" in str(slow)


def test_the_eigenvector_belongs_to_the_value(rng: np.random.Generator) -> None:
    model, (x, y) = mlp(rng), classification(rng)
    with Surface(model, F.cross_entropy, [(x, y)]) as surface:
        for iterations in (1, 7):
            pair = LambdaMax(iterations=iterations).eigenpair(surface)
            v = torch.cat([t.flatten() for t in pair.vector])
            image = torch.from_numpy(dense_hessian(model, F.cross_entropy, x, y)) @ v
            assert float(v.norm()) == pytest.approx(1.0, rel=1e-12)
            assert float(v @ image) == pytest.approx(pair.value, rel=1e-9)
            assert float((image - pair.value * v).norm()) == pytest.approx(pair.residual, rel=1e-7)


def test_diagonal_hessians_have_an_exact_trace(rng: np.random.Generator) -> None:
    """z_i² = 1, so that the first sample is right; ten are taken, because nobody knows."""
    quadratic = Quadratic(np.diag([1.0, -2.0, 4.0]), rng.normal(size=3), rng.normal(size=3))
    found = sharpness(quadratic.model, quadratic.loss, quadratic.loader, "trace")
    assert isinstance(found, MeanSharpness)
    assert found.value == pytest.approx(3.0, rel=1e-13)
    assert found.samples == found.evaluations.products == 10


def test_standard_error_of_a_trace(rng: np.random.Generator) -> None:
    """The variance of <z, H z> is twice the sum of the squares beside the diagonal."""
    a = symmetric(rng, rng.uniform(-1.0, 1.0, 12))
    quadratic = Quadratic(a, np.zeros(12), np.ones(12))
    found = sharpness(quadratic.model, quadratic.loss, quadratic.loader, "trace",
                      samples=400, tolerance=1e-9)  # fmt: skip
    assert isinstance(found, MeanSharpness)
    deviation = np.sqrt(2.0 * (np.sum(a**2) - np.sum(np.diag(a) ** 2)) / 400)
    assert found.standard_error == pytest.approx(deviation, rel=0.25)
    assert abs(found.value - np.trace(a)) < 5.0 * deviation


@pytest.mark.parametrize("hvp", ["jvp", "central", "forward"])
@pytest.mark.parametrize("method", ["lambda_max", "trace"])
def test_any_product(method: str, hvp: str, rng: np.random.Generator) -> None:
    x, y = classification(rng)
    model = mlp(rng, nn.Tanh)
    exact, found = (
        sharpness(model, F.cross_entropy, batches(x, y), method, hvp=each).value
        for each in ("auto", hvp)
    )
    assert found == pytest.approx(exact, rel=1e-4)


def test_curvlinops(rng: np.random.Generator) -> None:
    """Another implementation of the same operator, on a conv net with ragged batches."""
    reason = "curvlinops is not installed: pip install curvlinops-for-pytorch"
    curvlinops = pytest.importorskip("curvlinops", reason=reason)
    x, y = classification(rng, (2, 6, 6))
    model, data = trained(conv_net(rng), x, y, steps=30), batches(x, y)
    params = [p for p in model.parameters() if p.requires_grad]
    operator = curvlinops.HessianLinearOperator(model, nn.CrossEntropyLoss(), params, data)
    size = sum(p.numel() for p in params)
    dense = (operator @ torch.eye(size, dtype=torch.float64)).numpy()
    found = sharpness(model, F.cross_entropy, data, "lambda_max", iterations=2000, tolerance=1e-4)
    assert found.value == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-4)
    trace = sharpness(model, F.cross_entropy, data, "trace", samples=40, tolerance=1e-9)
    assert isinstance(trace, MeanSharpness)
    assert abs(trace.value - dense.trace()) < 5.0 * trace.standard_error


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lambda_max", {"iterations": 0}, "Invalid iterations value: 0"),
        ("lambda_max", {"tolerance": 0.0}, "Invalid tolerance value: 0.0"),
        ("lambda_max", {"hvp": "exact"}, "Invalid hvp value: 'exact'; it must be one of auto"),
        ("trace", {"samples": 1}, "Invalid samples value: 1"),
        ("trace", {"tolerance": float("nan")}, "Invalid tolerance value: nan"),
        ("trace", {"hvp": None}, "Invalid hvp value: None"),
    ],
)
def test_refuses(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharpness(Weights(torch.ones(2)), F.mse_loss, [], method, **options)
