"""Keskar's metric: against all corners of its box, in subspaces, and with what stands beside it."""

from __future__ import annotations

import builtins
import math
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
    corners,
    highest_corner,
    mlp,
    symmetric,
    trained,
)

from yfkernels.analysis import sharpness
from yfkernels.analysis.landscape import KeskarSharpness
from yfkernels.analysis.landscape.spaces import FullSpace, RandomSubspace, Space


def measured(quadratic: Quadratic, **options: Any) -> KeskarSharpness:
    found = sharpness(quadratic.model, quadratic.loss, quadratic.loader, "keskar", **options)
    assert isinstance(found, KeskarSharpness)
    return found


@pytest.mark.parametrize("eps", [1e-3, 5e-4, 0.1])
@pytest.mark.parametrize("slope", [0.0, 1e-6, 1.0])
def test_the_highest_corner(slope: float, eps: float, rng: np.random.Generator) -> None:
    """A convex function is highest at a corner. With slope 0, L-BFGS-B cannot leave 0."""
    a = symmetric(rng, rng.uniform(0.5, 3.0, 2))
    quadratic = Quadratic(a, slope * rng.normal(size=2), rng.normal(size=2))
    half = eps * (np.abs(quadratic.x) + 1.0)
    rise = highest_corner(quadratic, corners(half))
    found = measured(quadratic, eps=eps, starts=8)
    assert found.value == pytest.approx(100.0 * rise / 1.5, rel=1e-9)
    assert found.max_loss == pytest.approx(0.5 + rise, rel=1e-12)
    assert found.loss == 0.5


def test_more_corners(rng: np.random.Generator) -> None:
    """Of 64, not always the very highest is found."""
    quadratic = Quadratic(symmetric(rng, rng.uniform(0.5, 3.0, 6)), np.zeros(6), rng.normal(size=6))
    rise = highest_corner(quadratic, corners(1e-3 * (np.abs(quadratic.x) + 1.0)))
    found = measured(quadratic, starts=12)
    assert 0.9 * rise < found.max_loss - found.loss < rise * (1.0 + 1e-6)


def test_a_maximum_inside_the_box(rng: np.random.Generator) -> None:
    """Where the loss has a peak: at e = -A⁻¹ g, 1/4 of the box from x."""
    x, peak = rng.normal(size=3), 0.25e-2 * np.array([1.0, -1.0, 1.0])
    a = -symmetric(rng, [1.0, 2.0, 3.0])
    quadratic = Quadratic(a, -a @ peak, x)
    found = measured(quadratic, eps=1e-2, iterations=30)
    assert found.value == pytest.approx(100.0 * quadratic.rise(peak) / 1.5, rel=1e-6)


def test_a_minimum_of_nothing_has_no_sharpness() -> None:
    flat = Quadratic(np.zeros((2, 2)), np.zeros(2), np.ones(2))
    assert measured(flat).value == 0.0


def test_the_restarts_matter_at_a_minimum(rng: np.random.Generator) -> None:
    quadratic = Quadratic(symmetric(rng, [1.0, 2.0]), np.zeros(2), rng.normal(size=2))
    assert measured(quadratic, starts=1).value == 0.0
    assert measured(quadratic, starts=2).value > 0.0


# ---- subspaces


def matrix(space: Space, columns: int) -> Any:
    return np.stack(
        [
            torch.cat([t.flatten() for t in space.displacement(unit)]).double().numpy()
            for unit in np.eye(columns)
        ],
        axis=1,
    )


@pytest.mark.parametrize("shapes", [[(3, 4), (2,)], [(90, 100), (9000,)], [(2,), (1,)]])
def test_operations_of_a_subspace(shapes: list[tuple[int, ...]], rng: np.random.Generator) -> None:
    """A z, Aᵀ g and A⁺ x belong to one A, also in pieces, or with fewer rows than columns."""
    columns = 4
    params = [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]
    space = RandomSubspace(params, columns, seed=5)
    a = matrix(space, columns)
    x = np.concatenate([p.numpy().ravel() for p in params])
    z = rng.normal(size=columns)
    moved = torch.cat([t.flatten() for t in space.displacement(z)]).numpy()
    np.testing.assert_allclose(moved, a @ z, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(space.slopes(params), a.T @ x, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(
        space.coordinates(params), np.linalg.pinv(a) @ x, rtol=1e-8, atol=1e-10
    )
    other = matrix(RandomSubspace(params, columns, seed=6), columns)
    assert np.abs(a - other).min() > 0.0
    if a.size > 10_000:
        assert abs(a.mean()) < 5.0 / math.sqrt(a.size)
        assert a.std() == pytest.approx(1.0, abs=5.0 / math.sqrt(a.size))


def test_the_highest_corner_of_a_subspace(rng: np.random.Generator) -> None:
    size, columns, eps = 6, 3, 1e-3
    quadratic = Quadratic(
        symmetric(rng, rng.uniform(0.1, 3.0, size)), rng.normal(size=size), rng.normal(size=size)
    )
    params = list(quadratic.model.parameters())
    a = matrix(RandomSubspace(params, columns, seed=4), columns)
    half = eps * (np.abs(np.linalg.pinv(a) @ quadratic.x) + 1.0)
    rise = highest_corner(quadratic, corners(half) @ a.T)
    found = measured(quadratic, eps=eps, subspace=columns, starts=10, seed=4)
    assert found.value == pytest.approx(100.0 * rise / 1.5, rel=1e-7)


def test_full_space_in_any_layout() -> None:
    p = torch.arange(6.0).view(2, 3).T
    space = FullSpace([p])
    np.testing.assert_array_equal(space.coordinates([p]), [0, 3, 1, 4, 2, 5])
    (move,) = space.displacement(np.arange(6.0))
    assert torch.equal(move, torch.arange(6.0).view(3, 2))


# ---- beside it, and refusals


@pytest.mark.parametrize("subspace", [None, 20])
def test_an_adaptive_value_is_always_beside_it(
    subspace: int | None, rng: np.random.Generator
) -> None:
    x, y = classification(rng)
    model, data = mlp(rng), batches(x, y)
    options: dict[str, Any] = {"eps": 2e-3, "subspace": subspace, "seed": 3, "starts": 2}
    found = sharpness(model, F.cross_entropy, data, "keskar", **options)
    alone = sharpness(model, F.cross_entropy, data, "adaptive", rho=2e-3, p=math.inf, seed=3)
    assert isinstance(found, KeskarSharpness)
    assert found.adaptive.value == alone.value
    assert f"(adaptive {alone.value:.6g})" in str(found)


def test_close_to_the_best_that_is_known(rng: np.random.Generator) -> None:
    """Ten iterations on a trained network, against sixty of another method in the same box."""
    x, y = classification(rng, n=40)
    model = trained(mlp(rng), x, y, steps=100)
    found = sharpness(model, F.cross_entropy, [(x, y)], "keskar")
    assert isinstance(found, KeskarSharpness)
    params = [p.detach().clone() for p in model.parameters()]
    half = [1e-3 * (p.abs() + 1.0) for p in params]
    best = 0.0
    signs = [torch.from_numpy(rng.normal(size=p.shape)).sign() for p in params]
    for _ in range(60):
        with torch.no_grad():
            for p, w, h, sign in zip(model.parameters(), params, half, signs):
                p.copy_(w + h * sign)
        loss = F.cross_entropy(model(x), y)
        best = max(best, loss.item())
        signs = [g.sign() for g in torch.autograd.grad(loss, list(model.parameters()))]
    assert found.max_loss - found.loss > 0.9 * (best - found.loss)


def test_a_loss_below_minus_one() -> None:
    quadratic = Quadratic(np.eye(2), np.zeros(2), np.ones(2), level=-1.5)
    with pytest.raises(ValueError, match=r"Invalid loss: it is -1\.5 .* or method"):
        measured(quadratic)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eps": 0.0}, ValueError, "Invalid eps value: 0.0; it must be finite and > 0"),
        ({"eps": "1e-3"}, TypeError, "Invalid eps type: str"),
        ({"subspace": 0}, ValueError, "Invalid subspace value: 0; it must be at least 1"),
        ({"iterations": 0}, ValueError, "Invalid iterations"),
        ({"starts": 1.0}, TypeError, "Invalid starts type: float"),
    ],
)
def test_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sharpness(Weights(torch.ones(2)), F.mse_loss, [], "keskar", **options)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .yfkernels\[analysis\]"):
        sharpness(Weights(torch.ones(2)), F.mse_loss, [], "keskar")
