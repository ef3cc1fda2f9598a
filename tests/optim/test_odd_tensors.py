"""Tensors whose memory is not what it seems: wrapper subclasses, lazy views, fake and meta ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, normal
from support.kinds import Kind
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

pytestmark = pytest.mark.kernel_free


def wrapped(a: Tensor) -> TwoTensor:
    return TwoTensor(a.clone(), a.clone())


def gradients(rng: np.random.Generator, site: Site, like: Tensor) -> list[Tensor]:
    return [normal(rng, torch.empty(like.shape)).float().to(site.device) for _ in range(4)]


def test_wrapper_subclasses(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """They have elements and no memory of their own: data_ptr() is 0."""
    value = normal(rng, torch.empty(5, 3)).float().to(site.device)
    p, q = nn.Parameter(wrapped(value)), nn.Parameter(value.clone())
    beside = nn.Parameter(value.clone())
    optimizer = kind.build([p, beside], backend=site.backend)
    other = nn.Parameter(value.clone())
    expected = kind.build([q, other], backend="torch")
    assert p.data_ptr() == 0
    for g in gradients(rng, site, q):
        p.grad, q.grad = wrapped(g), g
        beside.grad, other.grad = g.clone(), g.clone()
        optimizer.step()
        expected.step()
    assert not torch.equal(q.detach(), value)
    # sums in float32 on the one side, in float64 on the other: YellowFin steps by them
    for part, whole in ((p.detach().a, q), (p.detach().b, q), (beside, other)):
        torch.testing.assert_close(part.detach(), whole.detach(), rtol=1e-4, atol=1e-5)


def test_a_wrapper_subclass_whose_first_gradient_comes_late(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    value = normal(rng, torch.empty(5, 3)).float().to(site.device)
    late, beside = nn.Parameter(wrapped(value)), nn.Parameter(value.clone())
    optimizer = kind.build([late, beside], backend=site.backend)
    for step, g in enumerate(gradients(rng, site, value)):
        before = late.detach().a.clone()
        late.grad = wrapped(g) if step >= 2 else None
        beside.grad = g.clone()
        optimizer.step()
        assert torch.equal(late.detach().a, before) == (step < 2)


def test_gradients_without_memory_every_other_step(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    value = normal(rng, torch.empty(5, 3)).float().to(site.device)
    p, q = nn.Parameter(value.clone()), nn.Parameter(value.clone())
    optimizer = kind.build([p], backend=site.backend)
    expected = kind.build([q], backend=site.backend)
    for step, g in enumerate(gradients(rng, site, q)):
        p.grad, q.grad = wrapped(g) if step % 2 else g, g.clone()
        optimizer.step()
        expected.step()
    # sums in float32 on the one side, in float64 on the other in half of the steps
    torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["adjoint", "conj", "negative", "imaginary"])
def test_parameters_that_are_lazy_views(
    form: str, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """They move as a parameter of the same values would."""
    z = torch.view_as_complex(normal(rng, torch.empty(3, 4, 2)).float()).to(site.device)
    make = {
        "adjoint": lambda z: z.mH,
        "conj": lambda z: z.conj(),
        "negative": lambda z: torch._neg_view(z.real.contiguous()),
        "imaginary": lambda z: z.conj().imag,
    }[form]
    p = nn.Parameter(make(z.clone()))
    assert p.is_conj() or p.is_neg()
    q = nn.Parameter(p.detach().resolve_conj().resolve_neg().clone())
    optimizer = kind.build([p], backend=site.backend)
    expected = kind.build([q], backend=site.backend)
    for _ in range(4):
        g = normal(rng, q).to(q.dtype).to(q.device)
        p.grad, q.grad = g, g.clone()
        optimizer.step()
        expected.step()
    assert p.is_conj() or p.is_neg()
    torch.testing.assert_close(
        p.detach().resolve_conj().resolve_neg(), q.detach(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("form", ["conjugate", "negative"])
def test_gradients_that_are_lazy_every_other_step(
    form: str, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    value = normal(rng, torch.empty(6, 2)).float().to(site.device)
    if form == "conjugate":
        value = torch.view_as_complex(value)
    p, q = nn.Parameter(value.clone()), nn.Parameter(value.clone())
    optimizer = kind.build([p], backend=site.backend)
    expected = kind.build([q], backend=site.backend)
    memory = torch.empty_like(value)
    for k in range(6):
        g = normal(rng, q).to(q.dtype).to(q.device)
        lazy = form == "conjugate", form == "negative"
        # in the same place, the same memory: only the tensor knows
        memory.copy_(g.conj() if lazy[0] and k % 2 else -g if lazy[1] and k % 2 else g)
        p.grad = memory
        if k % 2:
            p.grad = memory.conj() if lazy[0] else torch._neg_view(memory)
        q.grad = g
        optimizer.step()
        expected.step()
    assert_same_bits(p.detach(), q.detach())


def test_fake_tensors(kind: Kind) -> None:
    """Memory estimators run the whole training under FakeTensorMode."""
    with FakeTensorMode():
        model = nn.Linear(5, 3)
        optimizer: Any = kind.build(model.parameters())
        for _ in range(2):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
        shapes = {tuple(v.shape) for s in optimizer.state.values() for v in s.values()}
    assert shapes >= {(3, 5), (3,)}


def test_parameters_on_meta_are_refused(kind: Kind) -> None:
    """Models are built there first; there is nothing to move yet."""
    p = nn.Parameter(torch.ones(3, device="meta"))
    optimizer = kind.build([p])
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"parameter 0 .* meta.*to_empty"):
        optimizer.step()
    assert not optimizer.state


def test_default_device_is_not_ours(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    value = normal(rng, torch.empty(5, 3)).float().to(site.device)
    params = [nn.Parameter(value.clone()) for _ in range(2)]
    grads = gradients(rng, site, value)
    for p, device in zip(params, (site.device, "meta")):
        with torch.device(device):
            optimizer = kind.build([p], backend=site.backend)
            for g in grads:
                p.grad = g.clone()
                optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            p.grad = grads[0].clone()
            optimizer.step()
            optimizer.diagnostics()
            optimizer.reset()
    assert_same_bits(params[0].detach(), params[1].detach())
