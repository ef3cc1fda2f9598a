"""Moments in three bytes and in two, for `--module bench.convergence.moments`.

After each step the moments are rounded to what fewer bytes would keep of them, at random, so that
their means stay. Neither format needs a scale that somebody would have to measure: the first moment
is kept over the root of the second, and the second as a number of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from yfkernels import LAMB, QHAdam

_MANTISSA = 23  # bits of a float32's
_FLOAT8 = 2  # of a float8_e5m2's
_LEAST, _MOST = 2.0**-100, 2.0**27  # of seven bits of exponent


def _rounded(x: Tensor, bits: int) -> Tensor:
    """To so many bits of mantissa, up or down by chance."""
    below = 1 << (_MANTISSA - bits)
    words = x.view(torch.int32) + torch.randint_like(x, below, dtype=torch.int32)
    return (words & -below).view(torch.float32)


def _three_bytes(v: Tensor) -> Tensor:
    """As in bfloat16."""
    return _rounded(v, 7)


def _two_bytes(v: Tensor) -> Tensor:
    """Seven bits of exponent and one of mantissa."""
    return _rounded(v, 1).clamp(_LEAST, _MOST)


def _kept(optimizer: Optimizer, second: Callable[[Tensor], Tensor]) -> None:
    for state in optimizer.state.values():
        m, v = state["exp_avg"], state["exp_avg_sq"]
        over = m / v.sqrt().clamp_min(torch.finfo(v.dtype).tiny)
        v.copy_(second(v))
        m.copy_(_rounded(over, _FLOAT8) * v.sqrt())


def _trained(
    model: nn.Module,
    build: Callable[..., Optimizer],
    second: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> Optimizer:
    optimizer = build(model.parameters(), **options)
    if second is not None:
        optimizer.register_step_post_hook(lambda *_: _kept(optimizer, second))
    return optimizer


_LAMB = partial(_trained, build=LAMB, lr=2e-3, weight_decay=1e-2)
_QHADAM = partial(_trained, build=QHAdam, lr=1e-3)
CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    f"{name}{suffix}": partial(base, second=second)
    for name, base in (("lamb", _LAMB), ("qhadam", _QHADAM))
    for suffix, second in (("", None), ("-3-bytes", _three_bytes), ("-2-bytes", _two_bytes))
}
