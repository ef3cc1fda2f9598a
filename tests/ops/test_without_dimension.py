"""Numbers without dimension: parameters that are one; GradScaler's, which may be lists of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.cases import Site, assert_same_bits
from support.kinds import KINDS, Kind
from torch import Tensor, nn

from yfkernels import LAMB

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def run(kind: Kind, p: nn.Parameter, grads: list[Tensor], **options: Any) -> list[Any]:
    optimizer = kind.build([p], **options)
    for grad in grads:
        p.grad = grad.to(p.device, p.dtype).reshape(p.shape)
        optimizer.step()
    state = optimizer.state_dict()["state"][0]
    return [p.detach().reshape(1), {name: value.reshape(1) for name, value in state.items()}]


@each_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rounds", [False, True], ids=["masters", "rounded"])
def test_a_parameter_is_worked_out_as_a_list_of_one_is(
    rounds: bool, dtype: torch.dtype, kind: Kind, site: Site
) -> None:
    """Bit for bit: torch makes products of two such numbers float64 if one of them is."""
    options = {"backend": site.backend, "stochastic_rounding": rounds}
    generator = torch.Generator().manual_seed(0)
    grads = list(torch.randn(8, generator=generator).unbind())
    results = []
    for shape in ((), (1,)):
        p = nn.Parameter(torch.full(shape, 0.7, dtype=dtype, device=site.device))
        results.append(run(kind, p, grads, weight_decay=0.1, **options))
    assert_same_bits(*results)


@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_direction_whose_square_vanishes_has_ratio_1(shape: tuple[int, ...], site: Site) -> None:
    p = nn.Parameter(torch.full(shape, 1.0, device=site.device))
    optimizer = LAMB([p], lr=0.01, weight_decay=0.0, always_adapt=True, backend=site.backend)
    p.grad = torch.full_like(p, 1e-35)
    optimizer.step()
    assert list(optimizer.trust_ratios().values()) == [1.0]


@each_kind
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradscalers_numbers_have_any_shape(
    dtype: torch.dtype, shape: tuple[int, ...], kind: Kind, site: Site
) -> None:
    """As FSDP's ShardedGradScaler gives them; on every backend, with and without a measurement."""
    for options in ({}, kind.measures):
        results = []
        for scaled in (False, True):
            p = nn.Parameter(torch.linspace(-1.0, 1.0, 9, device=site.device))
            optimizer = kind.build([p], backend=site.backend, **options)
            p.grad = p.detach() + 0.5
            if scaled:
                p.grad *= 1024.0
                optimizer.grad_scale = torch.full(shape, 1024.0, dtype=dtype, device=p.device)
                optimizer.found_inf = torch.zeros(shape, dtype=dtype, device=p.device)
            optimizer.step()
            results.append(p.detach().clone())
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)
        optimizer.found_inf = torch.ones(shape, dtype=dtype, device=p.device)
        optimizer.step()
        assert_same_bits(p.detach(), results[-1])
        assert optimizer.diagnostics()["skipped_steps"] == 1.0
        assert not p.isnan().any()
