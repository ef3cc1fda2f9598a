"""How large a step stays stable when its gradient is stale."""

from __future__ import annotations

import cmath
import math
from functools import lru_cache

_TOLERANCE = 1e-13  # of an angle


@lru_cache(maxsize=4096)
def stability_limit(delay: int, momentum: float = 0.0) -> float:
    """lr a at which x(t+1) = x(t) + mu (x(t) - x(t-1)) - lr a x(t - tau) begins to grow.

    Without momentum 2 sin(pi / (2 (2 tau + 1))). With it, where a root crosses the unit circle at
    the angle t: (tau - 1/2) t + arg(exp(i t) - mu) = pi / 2, lr a = |exp(i t) - 1| |exp(i t) - mu|.

    Args:
        delay: tau >= 0.
        momentum: mu, in (-1, 1).

    Source: the roots of z^(tau+1) - (1 + mu) z^tau + mu z^(tau-1) + lr a.
    """
    low, high = 0.0, math.pi  # the angle grows with t
    while high - low > _TOLERANCE:
        middle = 0.5 * (low + high)
        if (delay - 0.5) * middle + cmath.phase(cmath.rect(1.0, middle) - momentum) < 0.5 * math.pi:
            low = middle
        else:
            high = middle
    root = cmath.rect(1.0, high)
    return abs(root - 1.0) * abs(root - momentum)
