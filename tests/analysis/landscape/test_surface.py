"""Value, gradient and product of all examples, displacements, and that nothing is left changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscapes import (
    batches,
    classification,
    conv_net,
    dense_hessian,
    mlp,
    normal,
    of_flat,
    redrawn,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from yfkernels.analysis import sharpness
from yfkernels.analysis.landscape import METHODS, Surface

FEW: dict[str, dict[str, Any]] = {
    "keskar": {"iterations": 2, "starts": 2},
    "adaptive": {"iterations": 2},
    "random": {"samples": 2},
    "lambda_max": {"iterations": 3},
    "trace": {"samples": 2},
    "epsilon_flatness": {"directions": 1, "iterations": 2, "tolerance": 0.5},
}


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


# ---- evaluations


@pytest.mark.parametrize("kind", ["mlp", "conv net"])
@pytest.mark.parametrize("size", [23, 10])
def test_all_examples_count_alike(kind: str, size: int, rng: np.random.Generator) -> None:
    """A last batch of 3 weighs less than those of 10: as one batch of all."""
    build, inputs = {"mlp": (mlp, (6,)), "conv net": (conv_net, (2, 6, 6))}[kind]
    model, (x, y) = build(rng), classification(rng, inputs)
    f, weights = of_flat(model, F.cross_entropy, x, y)
    z = normal(rng, len(weights))
    gradient = torch.autograd.functional.jacobian(f, weights)
    product = torch.from_numpy(dense_hessian(model, F.cross_entropy, x, y)) @ z
    parts = [
        part.view(p.shape)
        for part, p in zip(z.split([p.numel() for p in model.parameters()]), model.parameters())
    ]
    with Surface(model, F.cross_entropy, batches(x, y, size)) as surface:
        assert surface.value() == pytest.approx(float(f(weights)), rel=1e-13)
        loss, grads = surface.gradient()
        assert loss == pytest.approx(float(f(weights)), rel=1e-13)
        torch.testing.assert_close(flat(grads), gradient, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(flat(surface.product(parts)), product, rtol=1e-10, atol=1e-12)
        with surface.displaced(parts, scale=-0.1):
            assert surface.value() == pytest.approx(float(f(weights - 0.1 * z)), rel=1e-13)
        assert surface.examples == 23
        assert surface.evaluations == (2, 1, 1)


def test_layouts_of_parameters(rng: np.random.Generator) -> None:
    """Transposed and channels_last weights: the numbers, and afterwards the strides."""
    x, y = classification(rng, (2, 6, 6))
    plain = conv_net(rng)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    other[6].weight = nn.Parameter(other[6].weight.detach().T.contiguous().T)
    strides = [p.stride() for p in other.parameters()]
    assert strides != [p.stride() for p in plain.parameters()]
    for method, options in FEW.items():
        results = [
            sharpness(model, F.cross_entropy, batches(x, y), method, **options)
            for model in (plain, other)
        ]
        assert results[1].value == pytest.approx(results[0].value, rel=1e-8)
    assert strides == [p.stride() for p in other.parameters()]


def test_parameters_that_the_loss_does_not_reach(rng: np.random.Generator) -> None:
    model, (x, y) = mlp(rng), classification(rng)
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    with Surface(model, F.cross_entropy, [(x, y)]) as surface:
        _, grads = surface.gradient()
        products = surface.product([torch.ones_like(p) for p in surface.params])
        at = surface.names.index("unused")
        assert not grads[at].any()
        assert not products[at].any()


def test_the_modules_are_in_eval_mode(rng: np.random.Generator) -> None:
    """No batch is normalized by itself, and nothing is dropped."""
    x, y = classification(rng)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
    ).double()
    with torch.no_grad():
        expected = F.cross_entropy(model.eval()(x), y)
    model.train()
    with Surface(model, F.cross_entropy, batches(x, y)) as surface:
        assert surface.value() == pytest.approx(float(expected), rel=1e-13)
        assert surface.gradient()[0] == pytest.approx(float(expected), rel=1e-13)


def test_frozen_parameters_stay(rng: np.random.Generator) -> None:
    model, (x, y) = mlp(rng), classification(rng)
    model[0].requires_grad_(False)
    with Surface(model, F.cross_entropy, [(x, y)]) as surface:
        assert surface.names == ["2.weight", "2.bias", "4.weight", "4.bias"]
        with surface.only("4.bias"):
            _, grads = surface.gradient()
            assert [g.shape for g in grads] == [(3,)]


class Noisy(nn.Module):
    """Draws in eval mode, counts its calls in a buffer that its output depends on."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 0.1 * torch.rand_like(x) + 0.01 * self.calls


def everything() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), Noisy(), nn.Linear(8, 3)
    )


def test_a_function_of_the_weights(rng: np.random.Generator) -> None:
    """Whatever the model draws and counts, and however the loader shuffles."""
    model, (x, y) = redrawn(everything(), rng), classification(rng)
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    with Surface(model, F.cross_entropy, loader, seed=7) as surface:
        first = surface.value()
        torch.rand(5)
        assert surface.value() == first
        assert surface.gradient()[0] == first
        with surface.displaced([torch.ones_like(p) for p in surface.params]):
            assert surface.value() != first
        assert surface.value() == first


# ---- what is left


class Before:
    """All of a model's state, with the objects that hold it."""

    def __init__(self, model: nn.Module, loader: Any) -> None:
        self.model, self.loader = model, loader
        self.state = self._state()
        self.copies = [None if t is None else t.detach().clone() for t in self._tensors()]

    def _tensors(self) -> list[Tensor | None]:
        params = list(self.model.parameters())
        own = loader.get_state() if (loader := getattr(self.loader, "generator", None)) else None
        random = [torch.get_rng_state(), own]
        return [*params, *(p.grad for p in params), *self.model.buffers(), *random]

    def _state(self) -> Any:
        kept = [*self.model.parameters(), *self.model.buffers()]
        return (
            [(id(t), t.data_ptr(), t.stride(), t.requires_grad, id(t.grad)) for t in kept],
            [(m, m.training) for m in self.model.modules()],
        )

    def same(self) -> bool:
        return self._state() == self.state and all(
            now is then is None or torch.equal(now, then)
            for now, then in zip(self._tensors(), self.copies)
        )


class Trouble:
    """A loss that raises from its n-th call on."""

    def __init__(self, error: BaseException, call: int) -> None:
        self.error, self.calls = error, call

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls <= 0:
            raise self.error
        return F.cross_entropy(output, target)


@pytest.fixture
def prepared(rng: np.random.Generator) -> tuple[nn.Sequential, Any, Before]:
    """A model with gradients, some frozen weights and some modules in eval mode, -0.0 and tiny."""
    model, (x, y) = redrawn(everything(), rng, torch.float32), classification(rng)
    F.cross_entropy(model(x.float()), y).backward()
    model[5].bias.requires_grad_(False)
    model[1].eval()
    with torch.no_grad():
        model[0].weight[0, :2] = torch.tensor([-0.0, 1e-42])
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(x.float(), y), 5, shuffle=True, generator=generator)
    return model, loader, Before(model, loader)


@pytest.mark.parametrize("method", FEW)
def test_everything_is_as_it_was(method: str, prepared: Any) -> None:
    model, loader, before = prepared
    assert FEW.keys() == METHODS.keys()
    sharpness(model, F.cross_entropy, loader, method, **FEW[method])
    assert before.same()


@pytest.mark.parametrize(("call", "error"), [(1, RuntimeError("first")), (8, KeyboardInterrupt())])
@pytest.mark.parametrize("method", FEW)
def test_everything_is_as_it_was_after_an_exception(
    method: str, call: int, error: BaseException, prepared: Any
) -> None:
    model, loader, before = prepared
    with pytest.raises(type(error)):
        sharpness(model, Trouble(error, call), loader, method, **FEW[method])
    assert before.same()


def test_an_exception_of_the_loader_or_in_the_block(prepared: Any) -> None:
    model, loader, before = prepared

    class Broken:
        generator = loader.generator

        def __iter__(self) -> Iterator[Any]:
            yield from loader
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        sharpness(model, F.cross_entropy, Broken(), "trace")
    ones = [torch.ones_like(p) for p in model.parameters() if p.requires_grad]
    surface = Surface(model, F.cross_entropy, loader)
    with pytest.raises(ZeroDivisionError), surface, surface.displaced(ones):
        1 / 0  # noqa: B018
    assert before.same()


def test_a_loss_that_calls_backward(prepared: Any) -> None:
    """Gradients that the user has accumulated stay even then."""
    model, loader, before = prepared

    def loss(output: Tensor, target: Tensor) -> Tensor:
        result = F.cross_entropy(output, target)
        if result.requires_grad:
            result.backward()
        return result

    with pytest.raises(ValueError, match="leave backward"):
        sharpness(model, loss, loader, "adaptive")
    assert before.same()


# ---- what is refused


def test_evaluations_outside(rng: np.random.Generator) -> None:
    model, (x, y) = mlp(rng), classification(rng)
    surface = Surface(model, F.cross_entropy, [(x, y)])
    with pytest.raises(RuntimeError, match="inside `with surface:` only"):
        surface.value()
    with surface, pytest.raises(RuntimeError, match="in use"):
        surface.__enter__()


class Shrinking:
    """Fewer batches in every pass."""

    def __init__(self, data: Any) -> None:
        self.data = list(data)

    def __iter__(self) -> Iterator[Any]:
        yield from self.data
        self.data.pop()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": F.relu}, TypeError, "Invalid model type: .*; give an nn.Module"),
        ({"model": nn.LazyLinear(3)}, TypeError, "weight is uninitialized; .*run lazy modules"),
        ({"model": nn.Linear(6, 3, dtype=torch.complex64)}, TypeError, "weight is of torch.comp"),
        ({"model": nn.Linear(6, 3).requires_grad_(False)}, ValueError, "no parameter with req"),
        ({"loss": 1.0}, TypeError, "Invalid loss type: float; give a function"),
        ({"loss": lambda o, t: o}, ValueError, r"Invalid loss value: \(10, 3\); .* a scalar"),
        ({"loss": lambda o, t: 1.0}, TypeError, "Invalid loss result: 1.0"),
        ({"loss": lambda o, t: o.mean() * np.nan}, ValueError, "loss: nan on batch 0, at the mod"),
        ({"loss": lambda o, t: o.sum().detach()}, ValueError, "needs no gradient"),
        ({"loader": []}, ValueError, "Invalid loader: it gives no examples"),
        ({"loader": 3}, TypeError, "Invalid loader type: int, which cannot be iterated"),
        ({"loader": iter([])}, TypeError, "Invalid loader type: list_iterator"),
        ({"loader": [torch.ones(3)]}, TypeError, "Invalid loader item: a Tensor; give pairs"),
        ({"loader": [(1, 2, 3)]}, TypeError, "Invalid loader item: a tuple of 3"),
        ({"seed": -1}, ValueError, "Invalid seed value: -1"),
        ({"seed": 0.5}, TypeError, "Invalid seed type: float"),
        ({"hvp": "fast"}, ValueError, "Invalid hvp value: 'fast'; it must be one of auto"),
    ],
)
def test_refuses(
    change: dict[str, Any], error: type[Exception], message: str, rng: np.random.Generator
) -> None:
    x, y = classification(rng)
    good = {"model": mlp(rng), "loss": F.cross_entropy, "loader": batches(x, y)}
    with pytest.raises(error, match=message), Surface(**good | change) as surface:  # noqa: PT012
        surface.value()
        surface.gradient()


@pytest.mark.parametrize("method", FEW)
def test_a_loader_that_gives_less_later(method: str, rng: np.random.Generator) -> None:
    x, y = classification(rng)
    with pytest.raises(ValueError, match="gave 23 examples in the first pass and 20 in a later"):
        sharpness(mlp(rng), F.cross_entropy, Shrinking(batches(x, y)), method, **FEW[method])


def test_a_loss_that_is_not_finite_elsewhere(rng: np.random.Generator) -> None:
    """Finite at the weights, and a derivative that is not."""
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0]]))
    ones = [(torch.ones(3, 2, dtype=torch.float64), torch.zeros(3))]

    def root(output: Tensor, target: Tensor) -> Tensor:
        return (model.weight[0, 1].abs() + output.mean() * 0).sqrt()

    def wall(output: Tensor, target: Tensor) -> Tensor:
        return -(1.05 - output.mean()).log()

    with pytest.raises(ValueError, match="derivative with respect to weight is not finite, at the"):
        sharpness(model, root, ones, "lambda_max")
    with pytest.raises(ValueError, match=r"Invalid loss: (nan|inf) on batch 0, at displaced wei"):
        sharpness(model, wall, ones, "random", sigma=1.0)


# ---- dtypes


@pytest.mark.parametrize("method", FEW)
def test_float32(method: str, rng: np.random.Generator) -> None:
    x, y = classification(rng, n=40)
    model = mlp(rng, nn.Tanh)
    options: dict[str, Any] = {**FEW[method], "seed": 3}
    single = copy.deepcopy(model).float()
    found = sharpness(single, F.cross_entropy, batches(x.float(), y), method, **options)
    found_again = sharpness(single, F.cross_entropy, batches(x.float(), y), method, **options)
    assert found == found_again
    assert found.loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)


HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("method", ["lambda_max", "trace", "adaptive", "epsilon_flatness"])
def test_half_precision(
    method: str, dtype: torch.dtype, rng: np.random.Generator, recwarn: pytest.WarningsRecorder
) -> None:
    """About the result of the same weights in float32; displacements are large enough to see."""
    x, y = classification(rng, n=40)
    half = redrawn(mlp(rng, nn.Tanh), rng, dtype)
    options: dict[str, Any] = {
        "adaptive": {"rho": 0.3},
        "lambda_max": {"iterations": 30},
        "epsilon_flatness": {"directions": 2},
    }.get(method, {})
    low = sharpness(half, F.cross_entropy, batches(x.to(dtype), y), method, **options)
    displaces = method in ("adaptive", "epsilon_flatness")
    warned = [str(w.message) for w in recwarn if "rounded to" in str(w.message)]
    assert len(warned) == displaces
    full = sharpness(
        copy.deepcopy(half).float(), F.cross_entropy, batches(x.float(), y), method, **options
    )
    assert low.value == pytest.approx(full.value, rel=0.15)


def test_a_compiled_model_is_a_model(rng: np.random.Generator) -> None:
    x, y = classification(rng)
    model = mlp(rng)
    values = [
        sharpness(each, F.cross_entropy, [(x, y)], "lambda_max", iterations=3).value
        for each in (model, torch.compile(model, backend="eager"))
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-12)
