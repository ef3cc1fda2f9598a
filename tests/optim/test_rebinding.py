"""What may change between two steps behind the optimizer's back: sizes, groups, lazy views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, normal
from support.training import Build
from torch import Tensor, nn

from yfkernels.ops.watch import Seen
from yfkernels.optim import _plan
from yfkernels.optim._plan import Plan, _grad_of

pytestmark = pytest.mark.kernel_free


def parameter(rng: np.random.Generator, site: Site, *shape: int) -> nn.Parameter:
    return nn.Parameter(normal(rng, torch.empty(shape)).float().to(site.device))


@pytest.mark.parametrize("rows", [10, 120])
def test_a_resized_parameter_is_refused(
    rows: int, build: Build, site: Site, rng: np.random.Generator
) -> None:
    """Its strides are the old ones; the kernels would run over the end of its state."""
    other, p = parameter(rng, site, 5), parameter(rng, site, 100, 16)
    resized = p.detach()[:rows] if rows < 100 else torch.ones(rows, 16, device=site.device)
    optimizer = build([other, p])

    def backward() -> None:
        for each in (other, p):
            each.grad = torch.ones_like(each)

    def refused(message: str) -> None:
        before = [each.detach().clone() for each in (other, p)]
        with pytest.raises(RuntimeError, match=message):
            optimizer.step()
        assert_same_bits([other.detach(), p.detach()], before, "unchanged")

    backward()
    optimizer.step()
    p.data = resized
    refused(r"resized after its first step")
    backward()
    refused(r"resized after its first step")
    optimizer.state.pop(p)
    optimizer.step()
    assert p.shape == (rows, 16)

    fresh = build([p])
    backward()
    p.data = torch.ones(50, 16, device=site.device)
    with pytest.raises(RuntimeError, match=r"parameter 0 .*50.*resized after backward"):
        fresh.step()
    assert (p == 1.0).all()


def test_a_parameter_that_moves_to_the_next_group(
    build: Build, site: Site, rng: np.random.Generator
) -> None:
    """The parameters are the same and in the same order."""
    p, q, r = (parameter(rng, site, 5) for _ in range(3))
    optimizer = build([{"params": [p, q]}, {"params": [r], "lr": 0.0}])
    for moved in (False, True):
        before = [each.detach().clone() for each in (p, q, r)]
        for each in (p, q, r):
            each.grad = torch.ones_like(each)
        optimizer.step()
        stays = [torch.equal(b, each) for b, each in zip(before, (p, q, r))]
        assert stays == [False, moved, True]
        if not moved:
            optimizer.param_groups[1]["params"].insert(0, optimizer.param_groups[0]["params"].pop())


@pytest.mark.parametrize("form", ["conjugate", "negative"])
def test_gradients_that_are_lazy_views(
    form: str, build: Build, site: Site, rng: np.random.Generator
) -> None:
    """Their memory holds the conjugate or the negative."""
    values = normal(rng, torch.empty(7, 2)).float().to(site.device)
    if form == "conjugate":
        values = torch.view_as_complex(values)
    params = [nn.Parameter(values.clone()) for _ in range(2)]

    def lazy(g: Tensor) -> Tensor:
        if form == "conjugate":
            return g.clone().conj()
        return torch._neg_view(-g)  # as complex ones leave it, in the parameter's own layout

    def plain(g: Tensor) -> Tensor:
        return lazy(g).resolve_conj().resolve_neg().clone()

    steps: list[Any] = []
    for p, make in zip(params, (lazy, plain)):
        optimizer = build([p])
        draws = np.random.default_rng(1)
        for _ in range(4):
            g = normal(draws, torch.empty(7, 2)).float().to(site.device)
            p.grad = make(torch.view_as_complex(g) if form == "conjugate" else g)
            steps.append((p.grad.is_conj(), p.grad.is_neg()))
            optimizer.step()
    assert steps == [(form == "conjugate", form == "negative")] * 4 + [(False, False)] * 4
    assert_same_bits(params[0].detach(), params[1].detach())


def test_a_gradient_on_another_device_is_refused() -> None:
    """Its address means nothing there. Here "meta" stands for the device of the parameter."""
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"parameter 4 .* is on meta, its gradient on cpu"):
        _grad_of(p, p.detach().to("meta"), 4)


def test_parameters_that_are_never_where_they_were_are_refused(
    build: Build, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables that are not true as soon as they are made would be made for ever."""
    p = nn.Parameter(torch.ones(3, device=site.device))
    p.grad = torch.ones_like(p)
    optimizer = build([p])
    with monkeypatch.context() as patched:
        patched.setattr(Plan, "bind", lambda self, groups, state: Seen.PLAN)
        with pytest.raises(RuntimeError, match="changed while the step was being set up"):
            optimizer.step()
    assert torch.equal(p.detach(), torch.ones_like(p))
    optimizer.step()
    assert not torch.equal(p.detach(), torch.ones_like(p))


def test_versions_rise_where_torch_takes_one_tensor_a_call(
    build: Build, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch before 2.6 does. Autograd compares the versions."""
    increment = torch.autograd.graph.increment_version

    def increment_one(tensor: Tensor) -> None:
        assert isinstance(tensor, Tensor)
        increment(tensor)

    monkeypatch.setattr(torch.autograd.graph, "increment_version", increment_one)
    monkeypatch.setattr(_plan, "_TAKES_LISTS", _plan._takes_lists())
    params = [nn.Parameter(torch.ones(n, device=site.device)) for n in (3, 5)]
    optimizer = build(params)
    for p in params:
        p.grad = torch.ones_like(p)
    before = [p._version for p in params]
    optimizer.step()
    assert not _plan._TAKES_LISTS
    assert all(p._version > version for p, version in zip(params, before))
