"""What theory says about training with stale gradients: momentum, stability, stationary loss.

The model is a quadratic loss, each of whose curvatures a makes a recursion of its own. The gradient
of a step was taken tau versions ago, and momentum is in Polyak's form:

    x(t+1) = x(t) + mu (x(t) - x(t-1)) - lr a x(t - tau)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yfkernels._checks import check_positive, check_whole, require, require_number
from yfkernels.tuners.delay import stability_limit as delay_limit

_SMALL_STEP = 0.1  # largest lr a (2 tau + 1) of `delayed_excess_loss`


def implicit_momentum(workers: int) -> float:
    """The momentum that asynchronous workers make without any: q = 1 - 1 / workers.

    M workers whose staleness is geometric (each takes as long as the others, without memory) move
    the mean of x as momentum q does with a learning rate of lr / M.

    Args:
        workers: M, at least 1.

    Raises:
        TypeError, ValueError: `workers` is no whole number from 1 on.

    Source: Mitliagkas, Zhang, Hadjis, Re, "Asynchrony begets momentum", arXiv 1605.09774.

    Example:
        >>> [implicit_momentum(workers) for workers in (1, 2, 4, 8, 16)]
        [0.0, 0.5, 0.75, 0.875, 0.9375]
    """
    check_whole("workers", workers, least=1)
    return 1.0 - 1.0 / workers


def algorithmic_momentum(total: float, workers: int) -> float:
    """What is left to set, so that it and the workers' own momentum add up to a total.

    With momentum mu of the optimizer and q of the workers a move follows

        D <- (mu + q) D - mu q D' - (1 - q) lr grad

    on average, D' being the move before the last. So mu = total - q; below 0 with many workers.

    Args:
        total: the momentum that is wanted, in [0, 1).
        workers: at least 1.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: Zhang, Mitliagkas, "YellowFin and the Art of Momentum Tuning", arXiv 1706.03471,
    section 4.

    Example:
        >>> algorithmic_momentum(0.9, workers=16)
        -0.0375
    """
    require_number("total", total)
    require(0.0 <= total < 1.0, "total", total, "in [0, 1)")
    return round(float(total) - implicit_momentum(workers), 15)


def stability_limit(delay: int, momentum: float = 0.0) -> float:
    """The largest lr a with which the recursion of a curvature a does not grow.

    Without momentum 2 sin(pi / (2 (2 tau + 1))). With it, where a root crosses the unit circle at
    the angle t:

        (tau - 1/2) t + arg(exp(i t) - mu) = pi / 2,   lr a = |exp(i t) - 1| |exp(i t) - mu|.

    Exact for a fixed delay.

    Args:
        delay: tau, versions between a gradient and its use; 0 is synchronous.
        momentum: mu, in (-1, 1).

    Returns:
        The product of learning rate and curvature; the recursion is stable below it.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: the roots of z^(tau+1) - (1 + mu) z^tau + mu z^(tau-1) + lr a.

    Example:
        >>> [round(stability_limit(delay), 3) for delay in (0, 1, 3, 7, 15)]
        [2.0, 1.0, 0.445, 0.209, 0.101]
        >>> [round(stability_limit(delay, momentum=0.9), 3) for delay in (1, 3, 7, 15)]
        [0.1, 0.035, 0.016, 0.008]
    """
    check_whole("delay", delay, least=0)
    _check_momentum(momentum)
    return delay_limit(delay, momentum)


def delayed_excess_loss(curvature: Tensor, noise: Tensor, lr: float, delay: int) -> float:
    r"""Mean excess loss of SGD with stale gradients in its stationary state on ½ Σ a x².

    To second order in lr, s² being the variance of a gradient's noise along the curvature a,

        ½ Σ a Var(x) = lr/4 Σ s² (1 + (tau + 1/2) lr a) + O(lr³).

    The delay costs nothing at first order.

    Args:
        curvature: a > 0, of shape (d,).
        noise: s², of shape (d,).
        lr: learning rate, > 0 and at most 0.1 / ((2 tau + 1) a) for the largest a.
        delay: tau.

    Returns:
        The mean excess loss, with a relative error of at most 1% in this range.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: the second order of the recursion's stationary variance; derived for this package.

    Example:
        >>> round(delayed_excess_loss(torch.tensor([1.0]), torch.tensor([4.0]), 0.01, delay=3), 6)
        0.01035
    """
    a, s = (torch.as_tensor(each).detach().double() for each in (curvature, noise))
    ok = a.ndim == 1 and a.shape == s.shape and len(a) > 0
    require(
        ok, "noise", tuple(s.shape), f"of the shape of curvature, {tuple(a.shape)}, one of (d,)"
    )
    require(bool((a > 0.0).all()), "curvature", float(a.min()), "> 0 everywhere")
    require(bool((s >= 0.0).all()), "noise", float(s.min()), ">= 0 everywhere")
    check_whole("delay", delay, least=0)
    check_positive("lr", lr)
    limit = _SMALL_STEP / ((2 * delay + 1) * float(a.max()))
    fix = f"at most {limit:.6g}, 0.1 / ((2 delay + 1) a) for the largest a"
    require(lr <= limit * (1.0 + 1e-12), "lr", lr, fix)
    return float(0.25 * lr * (s * (1.0 + (delay + 0.5) * lr * a)).sum())


class BestMomentum(NamedTuple):
    """The fastest setting for a range of curvatures, and the factor by which errors fall a step."""

    momentum: float
    lr: float
    rate: float


def best_momentum(h_min: float, h_max: float, delay: int) -> BestMomentum:
    """The momentum and learning rate whose slowest curvature is the fastest, with a fixed delay.

    Without delay and for a wide range momentum helps much. With a delay the best one is negative,
    and hardly better than none: on curvatures from 0.02 to 1 with a delay of 3 the error falls to
    0.9902 in a step, to 0.9913 without momentum, and to 0.9931 with 0.8.

    Args:
        h_min, h_max: the smallest and the largest curvature, > 0.
        delay: tau, at most 64.

    Returns:
        To about 0.01 in momentum, between -0.96 and 0.96, and 1% in the learning rate.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: the largest root of `stability_limit`'s polynomial, over 17 curvatures, searched.

    Example:
        >>> best_momentum(0.02, 1.0, delay=3).momentum < -0.5
        True
    """
    check_positive("h_min", h_min)
    check_positive("h_max", h_max)
    require(h_min <= h_max, "h_min", h_min, f"at most h_max, {h_max}")
    check_whole("delay", delay, least=0)
    require(delay <= 64, "delay", delay, "at most 64")
    curvatures = torch.logspace(math.log10(h_min), math.log10(h_max), 17, dtype=torch.float64)

    def fastest(momenta: Tensor, shares: Tensor) -> BestMomentum:
        """Of these momenta, at these shares of the learning rate where each becomes unstable."""
        found = []
        for momentum in momenta.tolist():
            lrs = shares * stability_limit(delay, momentum) / h_max
            rates = _rates(lrs[:, None] * curvatures, momentum, delay).amax(1)
            at = int(rates.argmin())
            found.append(BestMomentum(momentum, float(lrs[at]), float(rates[at])))
        return min(found, key=lambda each: each.rate)

    coarse = fastest(_steps(-0.96, 0.96, 0.04), _steps(0.02, 1.0, 0.02))
    share = coarse.lr * h_max / stability_limit(delay, coarse.momentum)
    near = _steps(coarse.momentum - 0.04, coarse.momentum + 0.04, 0.01)
    return fastest(near.clamp(-0.96, 0.96), _steps(share - 0.02, min(share + 0.02, 1.0), 0.002))


def _steps(low: float, high: float, width: float) -> Tensor:
    """From low to high, about so far from one another."""
    return torch.linspace(low, high, round((high - low) / width) + 1, dtype=torch.float64)


def _rates(products: Tensor, momentum: float, delay: int) -> Tensor:
    """The largest root for each lr a: of z^(tau+1) - (1 + mu) z^tau + mu z^(tau-1) + lr a."""
    size = max(delay + 1, 2)
    companion = torch.zeros(*products.shape, size, size, dtype=torch.float64)
    companion[..., range(1, size), range(size - 1)] = 1.0
    companion[..., 0, 0] = 1.0 + momentum
    companion[..., 0, 1] = -momentum
    companion[..., 0, delay] -= products
    largest: Tensor = torch.linalg.eigvals(companion).abs().amax(-1)
    return largest


def _check_momentum(momentum: Any) -> None:
    require_number("momentum", momentum)
    require(-1.0 < momentum < 1.0, "momentum", momentum, "in (-1, 1)")
