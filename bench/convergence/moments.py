"""LAMB, QHAdam and Adam with moments in a byte each, for `--module bench.convergence.moments`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from yfkernels import LAMB, QHAdam

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "lamb": partial(LAMB, lr=2e-3),
    "qhadam": partial(QHAdam, lr=1e-3),
    "adam": partial(QHAdam, lr=1e-3, nus=(1.0, 1.0), betas=(0.9, 0.999)),
}


def _built(model: nn.Module, build: Callable[..., Optimizer], **options: Any) -> Optimizer:
    return build(model.parameters(), **options)


CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    f"{name}-{bits}": partial(_built, build=build, state_bits=bits)
    for name, build in _OPTIMIZERS.items()
    for bits in (32, 8)
}
