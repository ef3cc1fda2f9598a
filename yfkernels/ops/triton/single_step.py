"""SingleStep and the clip factor: as in csrc/tuner, operation for operation."""

from __future__ import annotations

import triton
import triton.language as tl

from yfkernels.ops.triton.layout import number


@triton.jit
def clip_factor(target, norm, e):
    """min(1, target / norm)."""
    return tl.minimum(target / (norm + e), 1.0)


@triton.jit
def cubic_complement(p):
    """y = 1 - x for the root x in (0, 1) of (1-x)³ = p x."""
    # an upper bound of the cube root of p, at most 2.6 times too large: a power of two
    exponent = (p.to(tl.int64, bitcast=True) >> 52) - 1023
    third = (exponent + 3 * 1024 + 3) // 3 - 1024
    y = tl.where(p < 1.0, ((third + 1023) << 52).to(tl.float64, bitcast=True), 1.0)
    for _ in range(12):
        y2 = y * y
        y = (2.0 * y2 * y + p) / (3.0 * y2 + p)
    return y


@triton.jit
def single_step(distance, variance, h_min, h_max, e):
    """SingleStep (arXiv 1706.03471, equation 15): (lr, momentum). e: float64."""
    # beside a tensor in minimum or maximum a bare literal would be a float32
    largest = tl.full([], number("LARGEST_CUBIC"), tl.float64)
    least_ratio = tl.full([], 1.0 + number("EPSILON"), tl.float64)
    h = h_min + e
    dh = (distance + e) * h
    p = tl.minimum(dh * dh / (2.0 * (variance + e)), largest)
    y = cubic_complement(p)
    x = tl.where(p > 1.0, y * y * y / p, 1.0 - y)
    root = tl.sqrt(tl.maximum((h_max + e) / h, least_ratio))
    sqrt_mu = tl.maximum(x, (root - 1.0) / (root + 1.0))
    gap = tl.minimum(y, 2.0 / (root + 1.0))
    return gap * gap / h, sqrt_mu * sqrt_mu
