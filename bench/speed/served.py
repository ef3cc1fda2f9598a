"""What the benches of the asynchronous engines serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

import yfkernels

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD fused": partial(torch.optim.SGD, lr=1e-3, fused=True),
    "QHM": partial(yfkernels.QHM, lr=1e-3),
    "YellowFin": yfkernels.YellowFin,
}


def parameters_of(megabytes: float) -> list[nn.Parameter]:
    """16 equal float32 parameters."""
    return [nn.Parameter(torch.zeros(round(megabytes * 1e6 / 4 / 16))) for _ in range(16)]
