"""update_state_then_apply: the CPU moves a tensor as soon as one thread is done with it.

Which tensors those are depends on the threads and on where the runs of chunks end; the result must
not. The sizes put tensors inside runs, across their borders and over several of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, normal, why_unusable

from yfkernels import LAMB, YellowFin
from yfkernels.ops.backends import backend_of
from yfkernels.optim._fused import FusedOptimizer

UNUSABLE = why_unusable(Site("native", "cpu"))
pytestmark = pytest.mark.skipif(UNUSABLE is not None, reason=str(UNUSABLE))

MODELS = {
    "one large": (700_001,),
    "many small": (64,) * 200,
    "mixed": (3, 400_000, 1, 65_537, 64, 64, 250_000, 1023, 131_072, 17, 5),
    "large ones at the ends": (300_000, 7, 9, 300_000),
}


def both_ways(model: str, optimizer: str, rng: np.random.Generator) -> list[FusedOptimizer]:
    values = [normal(rng, torch.empty(n)).float() for n in MODELS[model]]
    grads = [normal(rng, torch.empty(n)).float() for n in MODELS[model]]
    made = []
    for _ in range(2):
        params = [torch.nn.Parameter(value.clone()) for value in values]
        for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
            param.grad = None if index == 3 else grad.clone()
        options = {"backend": "native"}
        made.append(
            LAMB(params, **options)
            if optimizer == "LAMB"
            else YellowFin(params, trust_ratio=True, robust=False, **options)
        )
    return made


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("optimizer", ["LAMB", "YellowFin"])
@pytest.mark.parametrize("model", MODELS)
def test_same_as_one_pass_after_the_other(
    model: str,
    optimizer: str,
    num_threads: int,
    rng: np.random.Generator,
    threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(num_threads)
    at_once, in_turn = both_ways(model, optimizer, rng)
    for _ in range(3):
        at_once.step()

    native = backend_of("native", "cpu")

    def one_after_the_other(*arguments: Any) -> None:
        native.update_state(*arguments)
        native.apply(*arguments)

    monkeypatch.setattr(native, "update_state_then_apply", one_after_the_other)
    torch.set_num_threads(1)
    for _ in range(3):
        in_turn.step()

    for a, b in zip(
        at_once.param_groups[0]["params"], in_turn.param_groups[0]["params"], strict=True
    ):
        assert_same_bits(a.detach(), b.detach())
        assert_same_bits(dict(at_once.state[a]), dict(in_turn.state[b]))
    assert at_once.trust_ratios() == in_turn.trust_ratios()
