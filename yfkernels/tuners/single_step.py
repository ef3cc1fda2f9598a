"""SingleStep: momentum and step size from four statistics of the gradient."""

from __future__ import annotations

import math

from yfkernels.ops.backends import preferred


def single_step(
    distance: float, variance: float, h_min: float, h_max: float
) -> tuple[float, float]:
    """Minimises ``mu * distance**2 + lr**2 * variance`` over the robust region of momentum.

    The constraints are ``mu >= ((sqrt(r) - 1) / (sqrt(r) + 1))**2`` with ``r = h_max / h_min``
    and ``lr = (1 - sqrt(mu))**2 / h_min``: the local model of YellowFin (Zhang, Mitliagkas, Ré,
    arXiv 1706.03471, equation 15). Solved in float64 over the whole range, noise-free included.

    Args:
        distance: estimated distance to the optimum, >= 0.
        variance: variance of the gradient, >= 0.
        h_min: smallest curvature of the recent past, >= 0.
        h_max: largest curvature of the recent past, >= 0; taken for h_min if it is below it.

    Returns:
        ``(lr, momentum)``.

    Raises:
        ValueError: an argument is negative or not finite.

    Example:
        >>> lr, momentum = single_step(distance=1.0, variance=1.0, h_min=1.0, h_max=2.0)
        >>> round(lr, 4), round(momentum, 4)
        (0.3478, 0.1683)
    """
    arguments = {"distance": distance, "variance": variance, "h_min": h_min, "h_max": h_max}
    for name, value in arguments.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"Invalid {name} value: {value}; it must be finite and >= 0")
    return preferred("cpu").single_step(distance, variance, h_min, h_max)
