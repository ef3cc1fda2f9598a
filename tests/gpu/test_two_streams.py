"""Two optimizers at work at once, each on a stream of its own: neither sees the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.cases import MODES, assert_same_bits, normal

from yfkernels import YellowFin

pytestmark = pytest.mark.cuda
SHAPES = ((1024, 600), (65_537,), (3,))
STEPS = 10
SLEEP_CYCLES = 2_000_000  # about a millisecond: longer than the other stream's step


@pytest.mark.parametrize("mode", MODES)
def test_two_streams(mode: str, backend: str, rng: np.random.Generator) -> None:
    models = [
        [normal(rng, torch.empty(s)).to("cuda", torch.float32) for s in SHAPES] for _ in range(2)
    ]
    gradients = [
        [[normal(rng, p).to("cuda", torch.float32) for p in model] for _ in range(STEPS)]
        for model in models
    ]

    def start() -> tuple[list[list[torch.nn.Parameter]], list[YellowFin]]:
        params = [[torch.nn.Parameter(p.clone()) for p in model] for model in models]
        options = {**MODES[mode], "backend": backend, "capturable": True}
        return params, [YellowFin(p, **options) for p in params]

    def take(params: list[torch.nn.Parameter], optimizer: YellowFin, values: list) -> None:
        for p, g in zip(params, values, strict=True):
            p.grad = g
        optimizer.step()

    expected, optimizers = start()
    for params, optimizer, trace in zip(expected, optimizers, gradients, strict=True):
        for values in trace:
            take(params, optimizer, values)

    together, optimizers = start()
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in models]
    for step in range(STEPS):
        for which, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                if (step + which) % 3 == 0:
                    torch.cuda._sleep(SLEEP_CYCLES)
                take(together[which], optimizers[which], gradients[which][step])
    torch.cuda.synchronize()
    assert_same_bits(
        [[p.detach() for p in model] for model in expected],
        [[p.detach() for p in model] for model in together],
    )
