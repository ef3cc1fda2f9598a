"""What is special to state_bits=8: moments in bytes, which stay bytes."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from oracle.codes import ABSOLUTE, numbers_of_float8, unit_of
from support.cases import Gradients, Site, assert_same_bits, lay_out, memory_order, normal
from support.cut_training import through_a_file
from support.equal_tensors import codes_of_equal_tensors
from torch import Tensor, nn

from yfkernels import HD, LAMB, QHAdam

pytestmark = pytest.mark.kernel_free
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64)
each_optimizer = pytest.mark.parametrize("kind", [LAMB, QHAdam], ids=lambda kind: kind.__name__)


def step(optimizer: Any, params: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else torch.empty_like(p).copy_(g)
    optimizer.step()


@each_optimizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_stay_bytes(
    kind: Any, dtype: torch.dtype, site: Site, rng: np.random.Generator
) -> None:
    """Loading into parameters of another dtype or layout neither casts nor moves them."""
    values = normal(rng, torch.empty((2, 3, 4, 5), dtype=dtype)).to(site.device, dtype)
    p = nn.Parameter(lay_out(values, "channels_last")[0])
    optimizer = kind([p], backend=site.backend, state_bits=8)
    for gradients in Gradients(4).draw(rng, [p]):
        step(optimizer, [p], gradients)
    like = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
    state = optimizer.state[p]
    for name in ("exp_avg_codes", "exp_avg_sq_codes"):
        moment = state[name]
        assert (moment.dtype, moment.shape) == (torch.uint8, like.shape)
        assert moment.stride() == like.stride()
        assert len(moment.unique()) > 5
    saved = through_a_file(optimizer.state_dict())
    for layout in ("channels_last", "contiguous"):
        q = nn.Parameter(lay_out(values, layout)[0])
        other = kind([q], backend=site.backend, state_bits=8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other.load_state_dict(saved)
        assert_same_bits(other.state_dict()["state"], saved["state"])


@each_optimizer
def test_takes_two_bytes_a_parameter(kind: Any, site: Site) -> None:
    p = nn.Parameter(torch.ones(1000, device=site.device))
    optimizer = kind([p], backend=site.backend, state_bits=8)
    step(optimizer, [p], [torch.ones(1000)])
    held = [t for name, t in optimizer.state[p].items() if name != "step"]
    assert sum(t.numel() * t.element_size() for t in held) == 2 * p.numel()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e5])
def test_follows_the_float32_moments(scale: float, site: Site, rng: np.random.Generator) -> None:
    """Right on average, at any scale: each step's rounding is a coin of its own."""
    size, steps = 3000, 60
    p, q = (nn.Parameter(torch.zeros(size, device=site.device)) for _ in range(2))
    given: dict[str, Any] = {"backend": site.backend, "betas": (0.9, 0.95), "eps": 1e-20}
    ours, theirs = QHAdam([p], state_bits=8, **given), QHAdam([q], **given)
    for _ in range(steps):
        g: list[Tensor | None] = [scale * (normal(rng, p) + 0.5)]
        step(ours, [p], g)
        step(theirs, [q], g)
    bits, codes = (
        memory_order(ours.state[p][name], p).astype(np.uint8)
        for name in ("exp_avg_codes", "exp_avg_sq_codes")
    )
    squares = ABSOLUTE.values[codes]
    seen = numbers_of_float8(bits) * unit_of(squares)
    m, v = (memory_order(theirs.state[q][name], q) for name in ("exp_avg", "exp_avg_sq"))
    # deviations: of a moment's roundings some tenths of it, and 3000 of them are averaged
    assert float(seen.mean()) == pytest.approx(float(m.mean()), rel=0.05)
    assert float(squares.mean()) == pytest.approx(float(v.mean()), rel=0.1)
    assert float(abs(seen - m).mean()) < 0.2 * float(abs(m).mean())
    moved, exact = (float(x.detach().double().mean()) for x in (p, q))
    assert moved == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(("beta", "off"), [(0.9, 0.08), (0.995, 0.38)])
def test_noise_of_the_moments(beta: float, off: float, rng: np.random.Generator) -> None:
    """What docs/optimizers/qhm.md says of gradients that are noise: the size of it, and no bias."""
    p, q = (nn.Parameter(torch.zeros(2000)) for _ in range(2))
    ours, exact = (QHAdam([x], betas=(beta, 0.999), state_bits=b) for x, b in ((p, 8), (q, 32)))
    for _ in range(4000):
        g: list[Tensor | None] = [normal(rng, p)]
        step(ours, [p], g)
        step(exact, [q], g)
    squares = ABSOLUTE.values[ours.state[p]["exp_avg_sq_codes"].numpy()]
    m = numbers_of_float8(ours.state[p]["exp_avg_codes"].numpy()) * unit_of(squares)
    v, exact_m = (exact.state[q][name].double().numpy() for name in ("exp_avg_sq", "exp_avg"))
    assert squares.mean() == pytest.approx(v.mean(), rel=0.08)
    assert np.sqrt(squares / v).std() == pytest.approx(0.21, abs=0.03)
    seen = np.sqrt(((m - exact_m) ** 2).mean() / (exact_m**2).mean())
    assert seen == pytest.approx(off, rel=0.15)


@each_optimizer
def test_same_run_twice_rounds_alike(kind: Any, site: Site, rng: np.random.Generator) -> None:
    """And equal tensors, with equal gradients, are rounded apart: by their places in the model."""
    build = partial(kind, backend=site.backend, state_bits=8)
    assert not torch.equal(*codes_of_equal_tensors(build, site, rng))


# ---- bad input


@each_optimizer
@pytest.mark.parametrize("bits", [16, 0, "8", None])
def test_other_bits_are_refused(kind: Any, bits: Any) -> None:
    with pytest.raises(ValueError, match=r"Invalid state_bits value: .*8 or 32"):
        kind([nn.Parameter(torch.ones(3))], state_bits=bits)


@each_optimizer
def test_a_first_moment_that_outlives_the_second(kind: Any) -> None:
    """It is counted in roots of that, and would run out of range."""
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"Invalid betas value: .*state_bits=8"):
        kind([p], betas=(0.99, 0.9), state_bits=8)
    optimizer = kind([p], betas=(0.9, 0.81), state_bits=8)
    q = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="Invalid betas value"):
        optimizer.add_param_group({"params": [q], "betas": (0.99, 0.9)})
    kind([p], betas=(0.99, 0.9))


@each_optimizer
@pytest.mark.parametrize(("saved", "loading"), [(8, 32), (32, 8)])
def test_state_of_other_bits_is_refused(
    kind: Any, saved: int, loading: int, site: Site, rng: np.random.Generator
) -> None:
    p = nn.Parameter(normal(rng, torch.empty(20)).float().to(site.device))
    one = kind([p], backend=site.backend, state_bits=saved)
    step(one, [p], [normal(rng, p)])
    other = kind([nn.Parameter(p.detach().clone())], backend=site.backend, state_bits=loading)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(RuntimeError, match=r"exp_avg.* state_bits"):
        other.load_state_dict(one.state_dict())
    assert_same_bits(other.state_dict(), before)


def test_hypergradients_are_of_moments_in_full_precision() -> None:
    base = QHAdam([nn.Parameter(torch.ones(3))], state_bits=8)
    with pytest.raises(ValueError, match=r"Invalid state_bits value: 8; .*32"):
        HD(base)
