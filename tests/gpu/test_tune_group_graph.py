"""`tune="group"` on a device: the same in a graph and outside, and as on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.cases import MODES, assert_same_bits, normal

from yfkernels import YellowFin

pytestmark = pytest.mark.cuda
SHAPES = (((300, 70), (3,)), ((65_537,), ()))  # of each group
STEPS, REFUSED = 12, 7
ROBUST = [mode for mode, options in MODES.items() if options.get("robust", True)]

Params = list[list[torch.nn.Parameter]]


def make(values: list[list[torch.Tensor]], **options: object) -> tuple[Params, YellowFin]:
    params = [[torch.nn.Parameter(p.clone()) for p in group] for group in values]
    groups = [{"params": group} for group in params]
    return params, YellowFin(groups, tune="group", **options)


def give(params: Params, grads: list[torch.Tensor]) -> None:
    for p, grad in zip((p for group in params for p in group), grads, strict=True):
        if p.grad is None:
            p.grad = torch.empty_like(p)
        p.grad.copy_(grad)


@pytest.mark.parametrize("mode", ROBUST)
def test_replays_equal_steps(mode: str, backend: str, rng: np.random.Generator) -> None:
    values = [[normal(rng, torch.empty(s)).to("cuda", torch.float32) for s in g] for g in SHAPES]
    trace = [[normal(rng, p).to(p) for group in values for p in group] for _ in range(STEPS)]
    trace[REFUSED][0].view(-1)[0] = torch.inf  # in the first group alone
    params, eager = make(values, backend=backend, capturable=True, **MODES[mode])
    others, captured = make(values, backend=backend, capturable=True, **MODES[mode])
    on_host, tuned_there = make(values, backend=backend, **MODES[mode])
    graph = torch.cuda.CUDAGraph()
    for step, grads in enumerate(trace):
        for own, optimizer in ((params, eager), (on_host, tuned_there)):
            give(own, grads)
            optimizer.step()
        give(others, grads)
        if step < 2:
            captured.step()
            continue
        if step == 2:
            with torch.cuda.graph(graph):
                captured.step()
        graph.replay()
    torch.cuda.synchronize()
    assert_same_bits(params, others)
    for group in range(2):
        seen = eager.diagnostics(group)
        assert seen == captured.diagnostics(group)
        assert seen["skipped_steps"] == 1
        assert seen["step"] == STEPS - 1
        assert tuned_there.diagnostics(group) == pytest.approx(seen, rel=1e-4)
