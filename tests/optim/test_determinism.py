"""Bit for bit: the same run twice, any number of threads, kernels that meet in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Gradients, Site, assert_same_bits, normal
from support.kinds import Kind

from yfkernels import YellowFin

SHAPES = ((65537,), (300, 211), (1,), (4095,), (31, 3, 3, 3))
SMALL_SHAPES = ((1500,), (30, 21), (1,))


def run(kind: Kind, site: Site, seed: int, **options: Any) -> Any:
    """A short run with a spike; everything it leaves behind."""
    rng = np.random.default_rng(seed)
    shapes = SMALL_SHAPES if site.interpreted else SHAPES
    params = [
        torch.nn.Parameter(normal(rng, torch.empty(s)).to(site.device, torch.float32))
        for s in shapes
    ]
    optimizer = kind.build(params, backend=site.backend, **options)
    for gradients in Gradients(6, factor={3: 1e3}).draw(rng, params):
        for p, g in zip(params, gradients, strict=True):
            p.grad = torch.empty_like(p).copy_(g)
        optimizer.step()
    return [p.detach() for p in params], optimizer.state_dict(), optimizer.diagnostics()


def test_same_run_twice(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**32))
    counts = kind.optimizer is YellowFin and not kind.preconditioned
    options = {"sparsity_debias": True} if counts else {}
    first = run(kind, site, seed, **options)
    for _ in range(1 if site.interpreted else 2):
        assert_same_bits(first, run(kind, site, seed, **options))


@pytest.mark.kernel_free
def test_any_number_of_threads(
    kind: Kind, site: Site, rng: np.random.Generator, threads: None
) -> None:
    seed = int(rng.integers(2**32))
    results = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        results.append(run(kind, site, seed))
    for other in results[1:]:
        assert_same_bits(results[0], other)


@pytest.mark.kernel_free
def test_threads_changed_between_steps(
    kind: Kind, site: Site, rng: np.random.Generator, threads: None
) -> None:
    def alternate(counts: list[int]) -> torch.Tensor:
        generator = np.random.default_rng(seed)
        n = 1500 if site.interpreted else 200_000
        p = torch.nn.Parameter(normal(generator, torch.empty(n)).to(site.device, torch.float32))
        optimizer = kind.build([p], backend=site.backend)
        for count in counts:
            torch.set_num_threads(count)
            p.grad = normal(generator, p).to(site.device, torch.float32)
            optimizer.step()
        return p.detach()

    seed = int(rng.integers(2**32))
    assert_same_bits(alternate([2, 2, 2, 2]), alternate([1, 3, 2, 1]))
