"""SingleStep and the clip factor in tensor operations: as in csrc/tuner."""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import EPSILON, LARGEST_CUBIC


def cubic_complement(p: Tensor) -> Tensor:
    """y = 1 - x for the root x in (0, 1) of (1-x)³ = p x; float64, 0 <= p <= 1e300."""
    # an upper bound of the cube root of p, at most 2.6 times too large: a power of two
    exponent = (p.view(torch.int64) >> 52) - 1023
    third = (exponent + 3 * 1024 + 3) // 3 - 1024
    y = torch.where(p < 1.0, ((third + 1023) << 52).view(torch.float64), 1.0)
    for _ in range(12):
        y2 = y * y
        y = (2.0 * y2 * y + p) / (3.0 * y2 + p)
    return y


def single_step(
    distance: Tensor, variance: Tensor, h_min: Tensor, h_max: Tensor, e: float = EPSILON
) -> tuple[Tensor, Tensor]:
    """SingleStep on float64 scalars (paper, equation 15): (lr, momentum)."""
    h = h_min + e
    dh = (distance + e) * h
    p = (dh * dh / (2.0 * (variance + e))).clamp(max=LARGEST_CUBIC)
    y = cubic_complement(p)
    x = torch.where(p > 1.0, y * y * y / p, 1.0 - y)
    root = ((h_max + e) / h).clamp(min=1.0 + EPSILON).sqrt()
    sqrt_mu = torch.maximum(x, (root - 1.0) / (root + 1.0))
    gap = torch.minimum(y, 2.0 / (root + 1.0))
    return gap * gap / h, sqrt_mu * sqrt_mu


def clip_factor(target: Tensor, norm: Tensor, e: float = EPSILON) -> Tensor:
    """min(1, target / norm)."""
    return (target / (norm + e)).clamp(max=1.0)
