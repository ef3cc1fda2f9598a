"""What all measures share: options, results that repeat, layers, memory, texts."""

from __future__ import annotations

import dataclasses
import gc
import inspect
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscapes import batches, classification, dense_hessian, mlp
from torch import Tensor, nn

from yfkernels.analysis import Sharpness, sharpness
from yfkernels.analysis.landscape import METHODS, LayerSharpness, MeanSharpness

FEW: dict[str, dict[str, Any]] = {
    "keskar": {"iterations": 3, "starts": 2, "subspace": 7},
    "adaptive": {"iterations": 3, "starts": 2, "p": 2},
    "random": {"samples": 3, "adaptive": True},
    "lambda_max": {"iterations": 4, "tolerance": 1e-3},
    "trace": {"samples": 3, "hvp": "central"},
    "epsilon_flatness": {"directions": 2, "tolerance": 0.2, "limit": 3.0},
}
OF_LAYERS = [method for method in METHODS if method != "epsilon_flatness"]


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_options_repeat_a_result(method: str, per_layer: bool, rng: np.random.Generator) -> None:
    if per_layer and method not in OF_LAYERS:
        pytest.skip("has no such form")
    model, (x, y) = mlp(rng), classification(rng)
    data = batches(x, y)
    options = {**FEW[method], "seed": 5, "per_layer": per_layer}
    found = sharpness(model, F.cross_entropy, data, method, **options)
    assert found.options.items() >= (FEW[method] | {"seed": 5}).items()
    torch.manual_seed(99)
    assert sharpness(model, F.cross_entropy, data, found.method, **found.options) == found
    other = sharpness(model, F.cross_entropy, data, method, **{**found.options, "seed": 6})
    assert other.value != found.value
    assert found.loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
    assert found.examples == 23
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.value = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("method", OF_LAYERS)
def test_each_layer_alone(method: str, rng: np.random.Generator) -> None:
    """As if all other parameters were frozen."""
    model, (x, y) = mlp(rng), classification(rng)
    found = sharpness(model, F.cross_entropy, batches(x, y), method, per_layer=True, **FEW[method])
    assert isinstance(found, LayerSharpness)
    assert list(found.layers) == [name for name, _ in model.named_parameters()]
    assert found.value == max(result.value for result in found.layers.values())
    for name in ("0.weight", "4.bias"):
        model.requires_grad_(False)
        model.get_parameter(name).requires_grad_(True)
        alone = sharpness(model, F.cross_entropy, batches(x, y), method, **FEW[method])
        assert alone.value == pytest.approx(found.layers[name].value, rel=1e-9)
        assert name in str(found)
    passes = np.sum([result.evaluations for result in found.layers.values()], axis=0)
    assert found.evaluations == tuple(passes)


def test_traces_of_layers_add_up(rng: np.random.Generator) -> None:
    model, (x, y) = mlp(rng), classification(rng)
    found = sharpness(
        model, F.cross_entropy, batches(x, y), "trace", per_layer=True, samples=20, tolerance=1e-9
    )
    assert isinstance(found, LayerSharpness)
    at, hessian = 0, dense_hessian(model, F.cross_entropy, x, y)
    for name, p in model.named_parameters():
        result = found.layers[name]
        assert isinstance(result, MeanSharpness)
        trace = np.diag(hessian)[at : at + p.numel()].sum()
        assert abs(result.value - trace) < 6.0 * result.standard_error + 1e-12
        at += p.numel()


# ---- memory


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_three_vectors_at_most(method: str, per_layer: bool, rng: np.random.Generator) -> None:
    """Counted when a batch's evaluation begins: all tensors that are neither model nor data."""
    if per_layer and method not in OF_LAYERS:
        pytest.skip("has no such form")
    model = nn.Sequential(nn.Linear(60, 90), nn.ReLU(), nn.Linear(90, 3)).double()
    x, y = classification(rng, (60,), n=12)
    data = batches(x, y, 4)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    of_generators = 2 * torch.get_rng_state().nbytes
    held = []

    def count(module: nn.Module, inputs: Any) -> None:
        tensors = [t for t in gc.get_objects() if issubclass(type(t), Tensor)]
        sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        held.append(sum(sizes.values()))

    handle = model.register_forward_pre_hook(count)
    gc.collect()
    gc.freeze()  # hides all that there is from get_objects()
    options = {**FEW[method], "hvp": "auto"} if method == "trace" else FEW[method]
    try:
        sharpness(model, F.cross_entropy, data, method, per_layer=per_layer, **options)
    finally:
        handle.remove()
    assert len(held) > 5
    assert size < max(held) < 3.02 * size + of_generators


# ---- texts, progress, refusals


@pytest.mark.parametrize("method", METHODS)
def test_a_short_text(method: str, rng: np.random.Generator) -> None:
    x, y = classification(rng)
    found = sharpness(mlp(rng), F.cross_entropy, batches(x, y), method, **FEW[method])
    text = str(found)
    assert text.startswith(method)
    assert f"{found.value:.6g}" in text
    assert f"{found.loss:.6g}, mean of 23 examples" in text
    assert f"{found.evaluations.losses} for losses" in text
    assert "seed=0" in text
    assert len(text.splitlines()) <= 5


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_progress(method: str, per_layer: bool, rng: np.random.Generator) -> None:
    if per_layer and method not in OF_LAYERS:
        pytest.skip("has no such form")
    x, y = classification(rng)
    seen: list[tuple[int, int]] = []
    sharpness(
        mlp(rng), F.cross_entropy, batches(x, y), method,
        per_layer=per_layer, progress=lambda done, total: seen.append((done, total)),
        **FEW[method],
    )  # fmt: skip
    done, totals = zip(*seen)
    assert list(done) == sorted(set(done))
    assert len(set(totals)) == 1
    assert 0 < done[0] <= done[-1] <= totals[0]


def test_the_docstring_has_every_option_and_default() -> None:
    text = " ".join((inspect.getdoc(sharpness) or "").split())
    for method, kind in METHODS.items():
        options = ", ".join(
            f"{f.name}={f.default!r}".replace("=inf", "=math.inf").replace("'", '"')
            .replace("0.001", "1e-3")
            for f in dataclasses.fields(kind)
        )  # fmt: skip
        assert f'"{method}": {options}.' in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "flat"}, ValueError, "Invalid method value: 'flat'; it must be one of keskar"),
        ({"method": "trace", "eps": 1.0}, TypeError, 'option of method="trace": eps=1.0; it has s'),
        ({"method": "keskar", "rho": 1.0}, TypeError, "rho=1.0; it has eps, subspace, iterat"),
        ({"per_layer": 1}, ValueError, "Invalid per_layer value: 1; it must be True or False"),
        ({"progress": True}, TypeError, "Invalid progress type: bool; give a function"),
    ],
)
def test_refuses(
    options: dict[str, Any], error: type[Exception], message: str, rng: np.random.Generator
) -> None:
    def untouched(output: Any, target: Any) -> Any:
        raise AssertionError("nothing is evaluated")

    with pytest.raises(error, match=message):
        sharpness(mlp(rng), untouched, [classification(rng)], **options)


def test_results_are_of_one_kind(rng: np.random.Generator) -> None:
    x, y = classification(rng)
    for method in METHODS:
        found = sharpness(mlp(rng), F.cross_entropy, [(x, y)], method, **FEW[method])
        assert isinstance(found, Sharpness)
        assert dataclasses.is_dataclass(found)
