"""Scales of layers that leave the function: what they move, and what they must not move."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscapes import batches, classification, conv_net, mlp, normal, redrawn, trained
from torch import nn

from yfkernels.analysis import rescale_relu_layers, sharpness

INVARIANT: dict[str, tuple[str, dict[str, Any]]] = {
    "adaptive, p = inf": ("adaptive", {}),
    "adaptive, p = 2": ("adaptive", {"p": 2}),
    "adaptive, large": ("adaptive", {"rho": 0.2, "starts": 2}),
    "random, adaptive": ("random", {"adaptive": True}),
}


@pytest.mark.parametrize("net", ["mlp", "conv net"])
def test_what_moves_and_what_does_not(net: str, rng: np.random.Generator) -> None:
    """The demonstration of Dinh et al.: the same function, with other curvatures."""
    build, inputs = {"mlp": (mlp, (6,)), "conv net": (conv_net, (2, 6, 6))}[net]
    x, y = classification(rng, inputs, n=30)
    model, data = trained(build(rng), x, y, steps=100), batches(x, y, 20)

    def of(each: nn.Module, method: str, **options: Any) -> float:
        return sharpness(each, F.cross_entropy, data, method, **options).value

    before = {name: of(model, method, **more) for name, (method, more) in INVARIANT.items()}
    assert min(before.values()) > 0.0
    loss = F.cross_entropy(model(x), y).item()
    curvature, box = of(model, "lambda_max"), of(model, "keskar", starts=1)
    for a in (5.0, 20.0):
        other = copy.deepcopy(model)
        rescale_relu_layers(other, a)
        assert F.cross_entropy(other(x), y).item() == pytest.approx(loss, rel=1e-12)
        for name, (method, more) in INVARIANT.items():
            assert of(other, method, **more) == pytest.approx(before[name], rel=1e-6), (name, a)
    rescale_relu_layers(other, 10.0)
    # as sharp as one likes, also where the layer that is no pair's was the sharpest
    assert of(other, "lambda_max") > 50.0 * curvature
    assert of(other, "keskar", starts=1) > 2.0 * box


def test_keskar_has_an_invariant_value_beside_it(rng: np.random.Generator) -> None:
    x, y = classification(rng)
    model = mlp(rng)
    other = copy.deepcopy(model)
    rescale_relu_layers(other, 20.0)
    results: list[Any] = [
        sharpness(each, F.cross_entropy, [(x, y)], "keskar", starts=1) for each in (model, other)
    ]
    assert results[1].adaptive.value == pytest.approx(results[0].adaptive.value, rel=1e-6)


# ---- which layers


def names(*modules: nn.Module) -> list[tuple[str, str]]:
    return rescale_relu_layers(nn.Sequential(*modules), 2.0)


def test_layers_are_paired() -> None:
    one, relu = lambda: nn.Linear(3, 3), nn.ReLU()
    assert names(one(), relu, one()) == [("0", "2")]
    assert names(one(), relu, one(), relu, one()) == [("0", "2")]
    assert names(one(), relu, one(), nn.Sigmoid(), one(), relu, one()) == [("0", "2"), ("4", "6")]
    assert names(one(), nn.Sequential(relu, nn.Sequential(one())), nn.Softmax(1)) == [
        ("0", "1.1.0")
    ]
    assert names(one(), one()) == [("0", "1")]
    assert names(nn.BatchNorm1d(3), one(), nn.LeakyReLU(0.2), nn.Dropout(), nn.Identity(), one(),
                 nn.BatchNorm1d(3)) == [("1", "5")]  # fmt: skip


@pytest.mark.parametrize("a", [0.3, 5.0])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_function_of_convolutions(dims: int, a: float, rng: np.random.Generator) -> None:
    conv, *pools = (
        getattr(nn, f"{kind}{dims}d")
        for kind in ("Conv", "MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool")
    )
    model = redrawn(
        nn.Sequential(
            conv(2, 3, 3, padding=1, padding_mode="reflect"), nn.LeakyReLU(),
            pools[0](2), pools[1](2, padding=1), pools[2](3), pools[3](2),
            nn.Flatten(), nn.Unflatten(1, (3, 2**dims)), nn.Flatten(),
            nn.Linear(3 * 2**dims, 4, bias=False), nn.ReLU(), nn.Linear(4, 2),
        ),
        rng,
    )  # fmt: skip
    x = normal(rng, 3, 2, *[8] * dims)
    before, weights = model(x), copy.deepcopy(model.state_dict())
    assert rescale_relu_layers(model, a) == [("0", "9")]
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-13)
    after = model.state_dict()
    for name, factor in {"0.weight": a, "0.bias": a, "9.weight": 1 / a, "11.weight": 1.0}.items():
        torch.testing.assert_close(after[name], factor * weights[name], rtol=1e-14, atol=0.0)
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())


def test_a_power_of_two_is_undone_bit_for_bit(rng: np.random.Generator) -> None:
    model = mlp(rng)
    before = copy.deepcopy(model.state_dict())
    rescale_relu_layers(model, 4.0)
    rescale_relu_layers(model, 0.25)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[4].weight = model[0].weight
    return model


def twice() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


def normed() -> nn.Module:
    return nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.ReLU(), nn.Linear(3, 3)
    )


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[1].register_forward_hook(lambda module, inputs, output: output + 1.0)
    return model


def between(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), module, nn.Linear(3, 3))


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


@pytest.mark.parametrize(
    ("model", "a", "error", "message"),
    [
        (between(nn.BatchNorm1d(3)), 2.0, ValueError, r"2 \(BatchNorm1d\) between 0 and 3"),
        (between(nn.Sigmoid()), 2.0, ValueError, r"2 \(Sigmoid\) between 0 and 3"),
        (between(nn.GELU()), 2.0, ValueError, r"2 \(GELU\)"),
        (between(nn.ReLU6()), 2.0, ValueError, r"2 \(ReLU6\)"),
        (hooked(), 2.0, ValueError, r"1 \(ReLU with hooks\)"),
        (normed(), 2.0, ValueError, r"no two Linear .*it has 0 \(ParametrizedLinear"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), 2.0, ValueError, "no two Linear or Conv"),
        (nn.Sequential(), 2.0, ValueError, "no two Linear or Conv layers"),
        (tied(), 2.0, ValueError, "0.weight is used by several layers"),
        (twice(), 2.0, ValueError, "0.weight is used by several layers"),
        (nn.Linear(3, 3), 2.0, TypeError, "Invalid model type: Linear; give an nn.Sequential"),
        (between(Residual(nn.ReLU())), 2.0, TypeError, "Invalid model type: Residual"),
        (between(nn.ReLU()), 0.0, ValueError, "Invalid a value: 0.0; it must be finite and > 0"),
        (between(nn.ReLU()), -1.0, ValueError, "Invalid a value: -1.0"),
        (between(nn.ReLU()), math.inf, ValueError, "Invalid a value: inf"),
        (between(nn.ReLU()), "2", TypeError, "Invalid a type: str"),
    ],
)
def test_refuses(model: nn.Module, a: Any, error: type[Exception], message: str) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        rescale_relu_layers(model, a)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
