"""Text models in bfloat16, for `--module bench.convergence.half`: with a master copy, or rounded.

Everything but the loss is in bfloat16: weights, activations, gradients. A training whose master
copy is float32 is what others are held against.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from yfkernels import YellowFin


def _in_bfloat16(model: nn.Module) -> nn.Module:
    def widened(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.float()

    model.register_forward_hook(widened)
    return model.to(torch.bfloat16)


def _yellowfin(model: nn.Module, **options: Any) -> Optimizer:
    return YellowFin(_in_bfloat16(model).parameters(), **options)


def _adamw(model: nn.Module) -> Optimizer:
    """torch's own, which has neither a master copy nor stochastic rounding."""
    return AdamW(_in_bfloat16(model).parameters(), lr=1e-3, fused=True)


_FLOAT8: dict[str, Any] = {"momentum_dtype": torch.float8_e4m3fn}
CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "bf16-master": _yellowfin,
    "bf16-master-float8": partial(_yellowfin, **_FLOAT8),
    "bf16-rounded": partial(_yellowfin, stochastic_rounding=True),
    "bf16-rounded-float8": partial(_yellowfin, stochastic_rounding=True, **_FLOAT8),
    "bf16-adamw": _adamw,
}
