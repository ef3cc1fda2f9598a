"""Tensors past 2^31 bytes and past 2^31 elements: every element is moved, and all are counted."""

from __future__ import annotations

import pytest
import torch

from yfkernels import YellowFin

pytestmark = pytest.mark.cuda
PIECE = 2**27  # elements compared at a time, to keep the comparison's own memory small
# 4 and 5 GB past every 32-bit offset in bytes; the second past one in elements too
CASES = [
    pytest.param(1_100_000_003, torch.float32, "exact", id="float32"),
    pytest.param(2**31 + 4099, torch.bfloat16, "sketch", id="bfloat16"),
]
COMPARING = 8e9  # bytes
BYTES_PER_ELEMENT = 20  # gradient, parameter, its first value, state; both cases take no more


@pytest.mark.parametrize(("numel", "dtype", "variance"), CASES)
def test_large_tensor(
    numel: int, dtype: torch.dtype, variance: str, backend: str, device: str
) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < BYTES_PER_ELEMENT * numel + COMPARING:
        pytest.skip(f"{free / 1e9:.0f} GB of memory are free, {numel} elements need more")
    try:
        check_every_element(numel, dtype, variance, backend, device)
    finally:
        torch.cuda.empty_cache()


def check_every_element(
    numel: int, dtype: torch.dtype, variance: str, backend: str, device: str
) -> None:
    """Two steps with one gradient g move p to p - k g, and the tuner says what k is."""
    param = torch.nn.Parameter(torch.empty(numel, dtype=dtype, device=device).normal_())
    first = param.detach().clone()
    param.grad = torch.empty_like(param).normal_()
    optimizer = YellowFin([param], backend=backend, variance=variance, robust=False)
    optimizer.step()
    one = optimizer.diagnostics()
    optimizer.step()
    two = optimizer.diagnostics()
    buffer = two["momentum"] * one["clip_coefficient"] + two["clip_coefficient"]
    k = one["lr"] * one["clip_coefficient"] + two["lr"] * buffer

    moved = param.detach() if dtype is torch.float32 else optimizer.state[param]["master"]
    squares = 0.0
    pieces = [tensor.split(PIECE) for tensor in (first, param.grad, moved)]
    for start, (p, g, now) in enumerate(zip(*pieces, strict=True)):
        move = g.double().mul_(k)
        squares += float(g.double().square_().sum())
        gap = now.double().sub_(p.double().sub_(move)).abs_()
        allowed = p.double().abs_().add_(move.abs_()).mul_(1e-6)
        assert bool((gap <= allowed).all()), f"in the piece from element {start * PIECE}"
    assert two["grad_norm"] == pytest.approx(squares**0.5, rel=2e-6)
    assert k > 0.0
