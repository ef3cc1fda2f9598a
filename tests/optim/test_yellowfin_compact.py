"""What is special to preconditioner="compact": codes stay codes, and decay is decoupled."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from oracle.codes import VALUES
from support.cases import Gradients, Group, Site, Spec, assert_same_bits, lay_out, normal, specs
from support.cut_training import through_a_file
from support.equal_tensors import codes_of_equal_tensors
from support.kinds import KINDS
from torch import Tensor, nn

from yfkernels import YellowFin
from yfkernels.ops.constants import RELATIVE_CODES
from yfkernels.ops.torch.random import decoded

pytestmark = pytest.mark.kernel_free
KIND = next(kind for kind in KINDS if kind.name == "YellowFin")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64)
OUT_OF_RANGE = r"Invalid weight_decay value: .*'compact'.* decoupled_weight_decay=True"


def step(optimizer: YellowFin, params: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else torch.empty_like(p).copy_(g)
    optimizer.step()


# ---- what is saved


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_codes_stay_codes(dtype: torch.dtype, site: Site, rng: np.random.Generator) -> None:
    """Loading into parameters of another dtype or layout neither casts nor moves them."""
    values = normal(rng, torch.empty((2, 3, 4, 5), dtype=dtype)).to(site.device, dtype)
    p = nn.Parameter(lay_out(values, "channels_last")[0])
    optimizer = KIND.build([p], backend=site.backend)
    for gradients in Gradients(4).draw(rng, [p]):
        step(optimizer, [p], gradients)
    codes = optimizer.state[p]["exp_avg_sq_codes"]
    like = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
    assert (codes.dtype, codes.shape, codes.stride()) == (torch.uint8, like.shape, like.stride())
    assert len(codes.unique()) > 10
    saved = through_a_file(optimizer.state_dict())
    for layout in ("channels_last", "contiguous"):
        q = nn.Parameter(lay_out(values, layout)[0])
        other = KIND.build([q], backend=site.backend)
        other.load_state_dict(saved)
        again = other.state[q]["exp_avg_sq_codes"]
        assert again.dtype is torch.uint8
        assert torch.equal(again, codes)
        assert_same_bits(other.state_dict()["state"], saved["state"])


def test_takes_five_bytes_a_parameter(site: Site) -> None:
    p = nn.Parameter(torch.ones(1000, device=site.device))
    optimizer = KIND.build([p], backend=site.backend)
    step(optimizer, [p], [torch.ones(1000)])
    held = [t for name, t in optimizer.state[p].items() if name != "step"]
    assert sum(t.numel() * t.element_size() for t in held) == 5 * p.numel()


def test_same_run_twice_rounds_alike(site: Site, rng: np.random.Generator) -> None:
    """And equal tensors, with equal gradients, are rounded apart: by their places in the model."""
    build = partial(KIND.build, backend=site.backend)
    one, other = codes_of_equal_tensors(build, site, rng)
    assert not torch.equal(one, other)
    assert bool(((one.int() - other.int()).abs() <= 6).all())


def test_follows_the_float32_squares(site: Site, rng: np.random.Generator) -> None:
    """Right on average, though a step is a small part of the way from code to code."""
    size, steps = 3000, 100
    p, q = (nn.Parameter(torch.zeros(size, device=site.device)) for _ in range(2))
    compact = KIND.build([p], backend=site.backend, lr=0.0)
    diagonal = YellowFin([q], backend=site.backend, lr=0.0, preconditioner="diagonal")
    for _ in range(steps):
        g = [normal(rng, p)]
        step(compact, [p], g)
        step(diagonal, [q], g)
    squares = diagonal.state[q]["exp_avg_sq"].double()
    seen = decoded(compact.state[p]["exp_avg_sq_codes"], RELATIVE_CODES).double()
    # a step is 0.001 on average and codes are 0.03 apart at most: the variance of a rounding is
    # below the product. Elements are independent of each other: seven deviations of their mean
    allowed = 7.0 * (steps * 0.001 * 0.03 / size) ** 0.5
    assert float(seen.mean()) == pytest.approx(float(squares.mean()), abs=allowed)
    assert float(squares.mean()) > 0.08


@pytest.mark.parametrize("preconditioner", ["diagonal", "compact"])
def test_an_element_alone_moves_by_its_sign(preconditioner: str, site: Site) -> None:
    """Its d² is the number of elements, and so is its average in the end; codes reach there."""
    if site.interpreted:
        pytest.skip("four million elements; the codes are the other backends', bit for bit")
    p = nn.Parameter(torch.zeros(2**22, device=site.device))
    optimizer = YellowFin([p], preconditioner=preconditioner, backend=site.backend)
    p.grad = torch.zeros_like(p)
    p.grad[7] = -3.0
    optimizer.step()
    state = optimizer.state[p]
    state["step"].fill_(10_000.0)
    if preconditioner == "compact":
        state["exp_avg_sq_codes"][7] = int(np.searchsorted(VALUES, p.numel()))
    else:
        state["exp_avg_sq"][7] = p.numel()
    for _ in range(3):
        before = float(state["momentum_buffer"][7])
        optimizer.step()
        seen = optimizer.diagnostics()
        v = float(state["momentum_buffer"][7])
        u = (seen["momentum"] * before - v) / (seen["lr"] * seen["clip_coefficient"])
        assert u == pytest.approx(-1.0, abs=1e-3)


# ---- special cases beside the oracle


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.float64], ids=str)
def test_channels_last_follows_the_oracle(
    dtype: torch.dtype, site: Site, rng: np.random.Generator
) -> None:
    groups = (Group((Spec((2, 3, 4, 5), dtype, "channels_last"), Spec((33,), dtype))),)
    twin = KIND.beside(site, groups, rng, weight_decay=0.1)
    twin.run(Gradients(6, factor={2: 0.0}, poison={3: np.nan}), rng)


def test_silence_decays_to_the_first_code(site: Site, rng: np.random.Generator) -> None:
    """An element without a gradient stays at code 0; one whose gradient ends goes on falling."""
    twin = KIND.beside(site, (Group(specs((40,))),), rng)
    for k in range(30):
        g = normal(rng, twin.params[0])
        g[:10] = 0.0
        if k > 3:
            g[10:20] *= 1e-30
        twin.step([g])
    codes = twin.optimizer.state[twin.params[0]]["exp_avg_sq_codes"]
    assert not codes[:10].any()
    assert codes[10:].all()


# ---- decay that is not decoupled


def test_coupled_decay_is_refused() -> None:
    coupled: dict[str, Any] = {"decoupled_weight_decay": False}
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    with pytest.raises(ValueError, match=OUT_OF_RANGE):
        YellowFin([p], weight_decay=0.1, **coupled)
    with pytest.raises(ValueError, match=OUT_OF_RANGE):
        YellowFin([{"params": [p], "weight_decay": 0.1}], **coupled)
    with pytest.raises(ValueError, match=OUT_OF_RANGE):
        YellowFin([{"params": [p], **coupled}], weight_decay=0.1)
    optimizer = YellowFin([p], **coupled)
    with pytest.raises(ValueError, match=OUT_OF_RANGE):
        optimizer.add_param_group({"params": [q], "weight_decay": 0.1})
    assert len(optimizer.param_groups) == 1
    YellowFin([p], weight_decay=0.1)


def test_coupled_decay_is_refused_when_it_is_assigned(site: Site, rng: np.random.Generator) -> None:
    params = [nn.Parameter(normal(rng, torch.empty(30)).float().to(site.device))]
    optimizer = KIND.build(params, decoupled_weight_decay=False, backend=site.backend)
    trace = list(Gradients(4).draw(rng, params))
    step(optimizer, params, trace[0])
    before = copy.deepcopy((params, optimizer.state_dict()))
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match=OUT_OF_RANGE):
        step(optimizer, params, trace[1])
    optimizer.param_groups[0]["weight_decay"] = 0.0
    assert_same_bits(before, (params, optimizer.state_dict()))
    optimizer.param_groups[0] |= {"weight_decay": 0.1, "decoupled_weight_decay": True}
    step(optimizer, params, trace[2])
