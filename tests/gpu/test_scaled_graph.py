"""A captured step under a loss scale: the scale and its verdict are read in every replay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.cases import MODES, assert_same_bits, normal

from yfkernels import YellowFin

pytestmark = pytest.mark.cuda
SHAPES = ((300, 70), (65_537,), (3,))
WARM_UP = 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_scale_is_read_by_replays(
    mode: str, dtype: torch.dtype, backend: str, rng: np.random.Generator
) -> None:
    """Powers of two change no bit of a gradient, so plain eager steps are the reference."""
    values = [normal(rng, torch.empty(shape)).to("cuda", dtype) for shape in SHAPES]
    gradients = [[normal(rng, v).to("cuda", dtype) for v in values] for _ in range(9)]
    scales = [1.0, 2.0, 4.0, 8.0, 2.0, 1.0, 4.0, 16.0, 8.0]
    overflows = {5}  # finite here, but another rank may have met an infinity

    def start() -> tuple[list[torch.nn.Parameter], YellowFin]:
        params = [torch.nn.Parameter(v.clone()) for v in values]
        for p in params:
            p.grad = torch.empty_like(p)
        return params, YellowFin(params, backend=backend, **MODES[mode], capturable=True)

    reference, eager = start()
    for step, values_of_step in enumerate(gradients):
        if step not in overflows:
            for p, g in zip(reference, values_of_step, strict=True):
                p.grad.copy_(g)
            eager.step()

    params, optimizer = start()
    scale = torch.ones((), device="cuda")
    overflow = torch.zeros((), device="cuda")
    optimizer.grad_scale, optimizer.found_inf = scale, overflow
    graph = torch.cuda.CUDAGraph()
    for step, values_of_step in enumerate(gradients):
        if step == WARM_UP:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                optimizer.step()
        scale.fill_(scales[step])
        overflow.fill_(float(step in overflows))
        for p, g in zip(params, values_of_step, strict=True):
            p.grad.copy_(g * scales[step])
        if step < WARM_UP:
            optimizer.step()
        else:
            graph.replay()
    torch.cuda.synchronize()
    assert optimizer.diagnostics()["skipped_steps"] == len(overflows)
    assert_same_bits([p.detach() for p in reference], [p.detach() for p in params])
