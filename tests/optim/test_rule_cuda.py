"""LAMB, QHM and QHAdam on a CUDA device: launches, synchronisations, captured steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Gradients, Site, assert_same_bits, normal, why_unusable

from bench.common.launches import work_of
from yfkernels import LAMB, QHM, QHAdam, YellowFin

pytestmark = pytest.mark.cuda
SHAPES = ((300, 70), (65537,), (3,), (64, 3, 3, 3))
# launches of one step: the gate joins the pass that measures
CASES = [
    pytest.param(LAMB, {"max_grad_norm": None}, 2, id="LAMB"),
    pytest.param(LAMB, {"max_grad_norm": 1.0}, 3, id="LAMB, clip"),
    pytest.param(QHM, {}, 1, id="QHM"),
    pytest.param(QHM, {"skip_nonfinite": True}, 2, id="QHM, measured"),
    pytest.param(QHAdam, {}, 1, id="QHAdam"),
    pytest.param(YellowFin, {"trust_ratio": True, "robust": False}, 4, id="YellowFin, trust ratio"),
]
each_case = pytest.mark.parametrize(("kind", "options", "launches"), CASES)


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    reason = why_unusable(Site(request.param, "cuda"))
    if reason:
        pytest.skip(reason)
    return request.param


def parameters(values: list[torch.Tensor]) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(v.clone()) for v in values]
    for p in params:
        p.grad = torch.zeros_like(p)
    return params


def fill(params: list[torch.nn.Parameter], gradients: list[torch.Tensor | None]) -> None:
    for p, g in zip(params, gradients, strict=True):
        assert p.grad is not None
        assert g is not None
        p.grad.copy_(g)


@each_case
@pytest.mark.parametrize("count", [4, 3000])
def test_launches(
    kind: Any, options: dict[str, Any], launches: int, count: int, backend: str
) -> None:
    """Whatever the model: one tensor or thousands."""
    params = parameters([torch.ones(67, device="cuda") for _ in range(count)])
    optimizer = kind(params, backend=backend, capturable=True, **options)
    for _ in range(2):  # compiles, builds the table
        optimizer.step()
    names = [work.name for work in work_of(optimizer.step) if work.is_kernel]
    assert 1 <= len(names) <= launches, names


@each_case
@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_graph_replay_equals_eager(
    *,
    dtype: torch.dtype,
    rounds: bool,
    kind: Any,
    options: dict[str, Any],
    launches: int,
    backend: str,
    rng: np.random.Generator,
) -> None:
    """Steps are counted, and skipped, on the device."""
    values = [normal(rng, torch.empty(shape)).to("cuda", dtype) for shape in SHAPES]
    measures = kind is YellowFin or options.get("max_grad_norm") or "skip_nonfinite" in options
    poison = {8: np.inf} if measures else {}
    trace = list(Gradients(12, factor={6: 1e3}, poison=poison).draw(rng, values))
    chosen = {"capturable": True, "backend": backend, "stochastic_rounding": rounds, **options}
    eager_params, params = parameters(values), parameters(values)
    eager, optimizer = kind(eager_params, **chosen), kind(params, **chosen)
    for gradients in trace:
        fill(eager_params, gradients)
        eager.step()

    for gradients in trace[:3]:
        fill(params, gradients)
        optimizer.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for gradients in trace[3:]:
        fill(params, gradients)
        graph.replay()
    torch.cuda.synchronize()
    assert optimizer.diagnostics()["skipped_steps"] == len(poison)
    assert_same_bits([p.detach() for p in eager_params], [p.detach() for p in params])
    assert_same_bits(eager.state_dict(), optimizer.state_dict())


@each_case
def test_no_synchronisation(
    kind: Any, options: dict[str, Any], launches: int, backend: str, rng: np.random.Generator
) -> None:
    values = [normal(rng, torch.empty(shape)).to("cuda", torch.float32) for shape in SHAPES]
    params = parameters(values)
    optimizer = kind(params, capturable=True, backend=backend, **options)
    for _ in range(2):
        optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            for p in params:
                p.grad = torch.ones_like(p)  # new addresses
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
