"""Elements past 2^31 of one tensor: an int for the index would overflow there."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from support.cases import Site

from yfkernels import LAMB

NUMEL = 2**31 + 4099
BYTES = 12 * NUMEL + 8e9  # parameter, gradient and two averages; and what the test looks with
PLACES = (0, 2**31 - 1, 2**31, NUMEL - 1)


def free_memory(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def test_lamb_past_two_billion_elements(site: Site) -> None:
    """Two steps with a gradient of ones move p from 1 to about (1 - lr)²; no float32 master."""
    if site.interpreted or site.backend == "torch":
        pytest.skip("plain torch has no index of its own, and the interpreter no time")
    if free_memory(site.device) < BYTES:
        pytest.skip(f"needs {BYTES / 1e9:.0f} GB, {free_memory(site.device) / 1e9:.0f} are free")
    try:
        check(site, NUMEL, PLACES)
    finally:
        if site.device == "cuda":
            torch.cuda.empty_cache()  # torch keeps what it has had: other processes need it


def test_the_check_itself(site: Site) -> None:
    numel = 500 if site.interpreted else 70_000
    check(site, numel, (0, numel // 2, numel - 1))


def check(site: Site, numel: int, places: tuple[int, ...]) -> None:
    p = torch.nn.Parameter(torch.ones(numel, dtype=torch.bfloat16, device=site.device))
    p.grad = torch.ones_like(p)
    optimizer = LAMB([p], 0.25, always_adapt=True, stochastic_rounding=True, backend=site.backend)
    for _ in range(2):
        optimizer.step()
    assert optimizer.diagnostics()["grad_norm"] == pytest.approx(np.sqrt(numel), rel=1e-5)
    moments = optimizer.state[p]
    for place in places:
        # bfloat16 is rounded to 2^-8 or less below 1, twice
        assert float(p.detach()[place]) == pytest.approx(0.75**2, abs=2.0**-6), place
    for name in ("exp_avg", "exp_avg_sq"):
        first = moments[name][0]
        assert first > 0.0
        for place in places:
            assert moments[name][place] == first, (name, place)
