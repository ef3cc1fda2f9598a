"""HD over members that stay where they are: as when they are searched for, bit for bit."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits
from torch import nn

from yfkernels import HD, QHM, QHAdam

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
BASES: dict[str, Callable[..., Any]] = {
    "SGD": lambda p: SGD(p, lr=0.01, weight_decay=0.01),
    "momentum": lambda p: SGD(p, lr=0.01, momentum=0.9),
    "Nesterov": lambda p: SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "Adam": lambda p: Adam(p, lr=1e-3),
    "AdamW": lambda p: AdamW(p, lr=1e-3, weight_decay=0.1),
    "QHM": lambda p: QHM(p, lr=0.1),
    "QHAdam": lambda p: QHAdam(p, lr=1e-3),
}
SHAPES = ((3, 5), (1,), (65, 17), (1023,), (2, 3, 4))
of_every_base = pytest.mark.parametrize("name", BASES)


class Pair:
    """One that may stand, and one that always searches, with the same gradients."""

    def __init__(self, name: str, site: Site, rng: np.random.Generator) -> None:
        self.generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        start = [torch.randn(shape, generator=self.generator) for shape in SHAPES]
        self.models = [
            [nn.Parameter(value.clone().to(site.device)) for value in start] for _ in range(2)
        ]
        self.optimizers = [
            HD(BASES[name]([{"params": params[:2], "lr": 0.02}, {"params": params[2:]}]),
               backend=site.backend)
            for params in self.models
        ]  # fmt: skip
        self.optimizers[1]._stand = lambda *_: None  # type: ignore[method-assign]

    def backward(self, factor: float = 1.0) -> None:
        for p, q in zip(*self.models, strict=True):
            grad = factor * torch.randn(p.shape, generator=self.generator)
            p.grad, q.grad = (grad.clone().to(p.device) for _ in range(2))

    def step(self, factor: float = 1.0) -> None:
        self.backward(factor)
        self.take()

    def take(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        assert_same_bits(self.models[0], self.models[1])
        assert_same_bits(*(optimizer.state_dict() for optimizer in self.optimizers))

    def on_both(self, change: Callable[[HD, list[nn.Parameter]], None]) -> None:
        for optimizer, params in zip(self.optimizers, self.models, strict=True):
            change(optimizer, params)

    @property
    def stands(self) -> bool:
        return self.optimizers[0]._standing is not None


@pytest.fixture
def pair(request: pytest.FixtureRequest, site: Site, rng: np.random.Generator) -> Pair:
    return Pair(getattr(request, "param", "AdamW"), site, rng)


def fused(site: Site) -> bool:
    return site.backend != "torch"


@of_every_base
def test_steps_are_the_same(name: str, site: Site, rng: np.random.Generator) -> None:
    pair = Pair(name, site, rng)
    for _ in range(3 if site.interpreted else 6):
        pair.step()
    assert pair.stands == fused(site)


def swap_state(optimizer: HD, params: list[nn.Parameter]) -> None:
    for each in optimizer.state.values():
        for key, value in each.items():
            each[key] = value.clone()


def swap_parameters(optimizer: HD, params: list[nn.Parameter]) -> None:
    for p in params:
        p.data = p.data.clone()


def change_options(optimizer: HD, params: list[nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.3


def forget(optimizer: HD, params: list[nn.Parameter]) -> None:
    del optimizer.state[params[2]]


def add_group(optimizer: HD, params: list[nn.Parameter]) -> None:
    params.append(nn.Parameter(params[0].detach().clone()))
    optimizer.add_param_group({"params": [params[-1]]})


def reload(optimizer: HD, params: list[nn.Parameter]) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def transpose(optimizer: HD, params: list[nn.Parameter]) -> None:
    params[2].data = params[2].data.t().contiguous().t()


CHANGES = (swap_state, swap_parameters, change_options, forget, add_group, reload, transpose)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["AdamW", "QHM", "momentum"])
def test_what_a_program_changes_is_noticed(
    name: str, change: Callable[..., None], site: Site, rng: np.random.Generator
) -> None:
    if site.interpreted:
        pytest.skip("the look is on the host, and the same for all backends")
    pair = Pair(name, site, rng)
    for _ in range(4):
        pair.step()
    pair.on_both(change)
    for _ in range(4):
        pair.step()
    # transposed, the parameter lies otherwise than its gradients
    assert pair.stands == (fused(site) and change is not transpose)


@pytest.mark.parametrize("form", ["none", "strided", "NaN", "zero"])
def test_odd_gradients(form: str, pair: Pair, site: Site) -> None:
    if site.interpreted:
        pytest.skip("the look is on the host, and the same for all backends")
    for _ in range(4):
        pair.step()
    pair.backward()
    for params in pair.models:
        grad = params[2].grad
        assert grad is not None
        odd = {
            "none": None,
            "strided": grad.t().contiguous().t(),
            "NaN": grad * float("nan"),
            "zero": torch.zeros_like(grad),
        }
        params[2].grad = odd[form]
    pair.take()
    for _ in range(4):
        pair.step()
    assert pair.stands == fused(site)


@pytest.mark.parametrize("pair", ["momentum"], indirect=True)
def test_another_kind_of_step(pair: Pair, site: Site) -> None:
    """Nesterov's slots do not tell the direction of a step."""
    for nesterov in (False, True, False):
        pair.on_both(lambda o, _, n=nesterov: [g.update(nesterov=n) for g in o.param_groups])  # type: ignore[misc]
        for _ in range(4):
            pair.step()
    assert pair.stands == fused(site)


def test_memory_that_the_program_lets_go_of_is_free(pair: Pair) -> None:
    for _ in range(4):
        pair.step()
    params = pair.models[0]
    old = [weakref.ref(p.data.untyped_storage()) for p in params]
    grads = [weakref.ref(p.grad) for p in params if p.grad is not None]
    swap_parameters(pair.optimizers[0], params)
    for p in params:
        p.grad = None
    assert not any(ref() is not None for ref in [*old, *grads])


def test_two_dtypes_are_searched_for() -> None:
    """As a table has one dtype."""
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    optimizer = HD(SGD(params, lr=0.1))
    for _ in range(4):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer._standing is None
