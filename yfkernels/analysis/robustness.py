"""Why momentum is robust: the operator of a step on a quadratic, and where its radius is flat.

On h/2 x² every form of momentum here adds a buffer of gradients to the gradient itself,

    buf <- mu buf + h x,   x <- x - lr (w0 h x + w1 buf)

so that (x(t+1), x(t)) = A (x(t), x(t-1)) with, for s = lr h,

    trace A = 1 + mu - (w0 + w1) s,   det A = mu (1 - w0 s).

Wherever the eigenvalues of A are complex its spectral radius, the factor by which errors shrink a
step, is sqrt(det A): with Polyak's form, w0 = 0, that is sqrt(mu) whatever lr and h are.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yfkernels._checks import check_fraction, check_positive, require, require_number

FORMS = ("polyak", "nesterov", "qhm", "qhm-sum")


def momentum_operator(
    lr: Any, momentum: Any, curvature: Any, *, form: str = "polyak", nu: float | None = None
) -> Tensor:
    r"""The 2 x 2 matrix that takes (x(t), x(t-1)) to (x(t+1), x(t)) on the loss h/2 x².

        | form | the step, with g = h x | weights w0, w1 of g and buf |
        |---|---|---|
        | "polyak" | buf <- mu buf + g, x <- x - lr buf | 0, 1 |
        | "nesterov" | the same buf, x <- x - lr (g + mu buf) | 1, mu |
        | "qhm" | d <- mu d + (1 - mu) g, x <- x - lr ((1 - nu) g + nu d) | 1 - nu, nu (1 - mu) |
        | "qhm-sum" | the same with buf, a sum, in place of d, a mean | 1 - nu, nu |

    "polyak" is the heavy ball, x(t+1) = x(t) + mu (x(t) - x(t-1)) - lr g, and torch's SGD; the
    dampening of torch's SGD multiplies lr by 1 - dampening, except in its first step. "nesterov"
    is torch's SGD with ``nesterov=True``, "qhm" is `yfkernels.QHM` with mu as its beta.

    Args:
        lr: learning rate, > 0; a number, tensor or array.
        momentum: mu, in (-1, 1); the same. A negative one is what `algorithmic_momentum` asks for
            with many workers.
        curvature: h, finite; the same. The three are broadcast.
        form: of the table.
        nu: weight of the buffer in the last two forms, in [0, 1]; 0 leaves plain SGD in x, and mu
            as an eigenvalue of a buffer that nothing reads.

    Returns:
        The matrices, float64, of shape (..., 2, 2).

    Raises:
        TypeError, ValueError: an argument out of its range; a `nu` without a form that has one.

    Source: Zhang, Mitliagkas, Re, "YellowFin and the Art of Momentum Tuning", arXiv 1706.03471,
    section 2, for Polyak's form; the others were derived for this package.

    Example:
        >>> momentum_operator(0.1, 0.9, 2.0)
        tensor([[ 1.7000, -0.9000],
                [ 1.0000,  0.0000]], dtype=torch.float64)
    """
    trace, determinant, _ = _characteristic(lr, momentum, curvature, form, nu)
    first = torch.stack([trace, -determinant], -1)
    second = torch.stack([torch.ones_like(trace), torch.zeros_like(trace)], -1)
    return torch.stack([first, second], -2)


def momentum_eigenvalues(
    lr: Any, momentum: Any, curvature: Any, *, form: str = "polyak", nu: float | None = None
) -> Tensor:
    """Both eigenvalues of `momentum_operator`, whose arguments it takes, the larger one first.

    They are the roots of z² - (trace A) z + det A: a complex pair where (trace A)² < 4 det A.

    Returns:
        Complex numbers, complex128, of shape (..., 2).

    Raises:
        TypeError, ValueError: as `momentum_operator` does.

    Example:
        >>> momentum_eigenvalues(1.0, 0.25, 1.25)
        tensor([0.+0.5000j, 0.-0.5000j], dtype=torch.complex128)
        >>> momentum_eigenvalues(1.0, -0.25, 0.75)
        tensor([ 0.5000+0.j, -0.5000+0.j], dtype=torch.complex128)
    """
    trace, determinant, gap = _characteristic(lr, momentum, curvature, form, nu)
    root = 0.5 * gap.abs().sqrt()
    larger = 0.5 * trace + torch.where(trace < 0.0, -root, root)
    # As a quotient the smaller one loses nothing to cancellation.
    smaller = torch.where(larger == 0.0, larger, determinant / larger)
    pair = torch.complex(0.5 * trace, root)
    real = torch.stack([larger, smaller], -1).to(pair.dtype)
    return torch.where(gap[..., None] < 0.0, torch.stack([pair, pair.conj()], -1), real)


def spectral_radius(
    lr: Any, momentum: Any, curvature: Any, *, form: str = "polyak", nu: float | None = None
) -> Tensor:
    """The factor by which the error of a curvature shrinks a step, in the long run.

    With T and D for the trace and the determinant of `momentum_operator`, whose arguments it takes,

        sqrt(D) where T² <= 4 D,   else (|T| + sqrt(T² - 4 D)) / 2;

    at 1 and above the steps diverge. With Polyak's form it is sqrt(mu) in all of `robust_region`.
    With a negative mu both eigenvalues are real, of opposite signs and of product mu, so it is at
    least sqrt(-mu), and that only at lr h = 1 + mu.

    Returns:
        The radii, float64, of the shape that the arguments broadcast to.

    Raises:
        TypeError, ValueError: as `momentum_operator` does.

    Example:
        >>> curvatures = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0])
        >>> spectral_radius(0.03, 0.9, curvatures)
        tensor([0.9969, 0.9487, 0.9487, 0.9487, 0.9487], dtype=torch.float64)
    """
    trace, determinant, gap = _characteristic(lr, momentum, curvature, form, nu)
    real = 0.5 * (trace.abs() + gap.clamp(min=0.0).sqrt())
    return torch.where(gap > 0.0, real, determinant.clamp(min=0.0).sqrt())


class RobustRegion(NamedTuple):
    """Between which products lr h the eigenvalues are complex, and the spectral radius there.

    Attributes:
        low, high: the ends of the region.
        radius_at_low, radius_at_high: the spectral radius at the ends. Between them it is
            sqrt(mu (1 - w0 lr h)), which falls from the one to the other, and with Polyak's form
            does not change.
    """

    low: float
    high: float
    radius_at_low: float
    radius_at_high: float


def robust_region(
    momentum: float, *, form: str = "polyak", nu: float | None = None
) -> RobustRegion:
    """The products lr h where lr and h matter as little as a form of momentum allows.

    Both ends follow from (trace A)² = 4 det A, at

        lr h = ((sqrt(w1 + (1 - mu) w0) -+ sqrt(mu w1)) / (w0 + w1))².

    With r = sqrt(nu mu) and a = sqrt(1 - (1 - nu) mu):

        | form | from | to | spectral radius |
        |---|---|---|---|
        | "polyak" | (1 - sqrt(mu))² | (1 + sqrt(mu))² | sqrt(mu) |
        | "nesterov" | ((1 - mu) / (1 + mu))² | 1 | sqrt(mu (1 - lr h)) |
        | "qhm" | (1 - mu) / (1 + r)² | (1 - mu) / (1 - r)² | sqrt(mu (1 - (1 - nu) lr h)) |
        | "qhm-sum" | (a - r)² | (a + r)² | sqrt(mu (1 - (1 - nu) lr h)) |

    With "nesterov" the radius falls from 2 mu / (1 + mu) to 0, with "qhm" from (mu + r) / (1 + r)
    to abs(mu - r) / (1 - r).

    Args:
        momentum: mu, in [0, 1). A negative one has no such region, see `spectral_radius`.
        form: as for `momentum_operator`.
        nu: the same.

    Returns:
        The ends, and the radius at each.

    Raises:
        TypeError, ValueError: an argument out of its range; a `nu` without a form that has one.

    Source: as for `momentum_operator`.

    Example:
        >>> [round(value, 4) for value in robust_region(0.81)]
        [0.01, 3.61, 0.9, 0.9]
        >>> [round(value, 4) for value in robust_region(0.81, form="nesterov")]
        [0.011, 1.0, 0.895, 0.0]
    """
    require_number("momentum", momentum)
    fix = "in [0, 1); with a negative one both eigenvalues are real, and the radius is flat nowhere"
    require(0.0 <= momentum < 1.0, "momentum", momentum, fix)
    mu = float(momentum)
    w0, w1 = (float(weight) for weight in _weights(torch.tensor(mu, dtype=torch.float64), form, nu))
    center, half = math.sqrt(w1 + (1.0 - mu) * w0), math.sqrt(mu * w1)
    low, high = (((center + side * half) / (w0 + w1)) ** 2 for side in (-1.0, 1.0))
    # The double eigenvalue at an end is half the trace; sqrt(det A) would lose half the digits.
    at_low, at_high = (0.5 * abs(1.0 + mu - (w0 + w1) * end) for end in (low, high))
    return RobustRegion(low, high, at_low, at_high)


class RobustSettings(NamedTuple):
    """A momentum, and the learning rates that put all curvatures of a range into its region.

    Attributes:
        momentum: mu.
        lr_min, lr_max: the smallest and the largest of them.
        radius: sqrt(mu), the spectral radius at every curvature of the range.
    """

    momentum: float
    lr_min: float
    lr_max: float
    radius: float


def robust_settings(h_min: float, h_max: float, *, momentum: float | None = None) -> RobustSettings:
    """The momentum and learning rates at which all curvatures from h_min to h_max go equally fast.

    Polyak's form, with kappa = h_max / h_min:

        mu >= ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))²
        (1 - sqrt(mu))² / h_min <= lr <= (1 + sqrt(mu))² / h_max

    The smallest mu is the fastest and leaves one lr, 4 / (sqrt(h_min) + sqrt(h_max))². A larger one
    is slower and leaves room for an error in lr. For gradients that are stale see `best_momentum`.

    Args:
        h_min, h_max: the smallest and the largest curvature, > 0.
        momentum: mu, at least the smallest; None for just that.

    Returns:
        The momentum, the ends of the learning rates, and the radius.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: Zhang, Mitliagkas, Re, arXiv 1706.03471, section 2.

    Example:
        >>> [round(value, 4) for value in robust_settings(0.01, 1.0)]
        [0.6694, 3.3058, 3.3058, 0.8182]
        >>> [round(value, 4) for value in robust_settings(0.01, 1.0, momentum=0.9)]
        [0.9, 0.2633, 3.7974, 0.9487]
    """
    check_positive("h_min", h_min)
    check_positive("h_max", h_max)
    require(h_min <= h_max, "h_min", h_min, f"at most h_max, {h_max}")
    low, high = math.sqrt(h_min), math.sqrt(h_max)
    radius = (high - low) / (high + low)
    if momentum is None:
        lr = 4.0 / (low + high) ** 2
        return RobustSettings(radius**2, lr, lr, radius)
    check_fraction("momentum", momentum)
    fix = f"at least {radius**2:.6g}, ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))²"
    require(momentum >= radius**2, "momentum", momentum, fix)
    region = robust_region(momentum)
    return RobustSettings(
        float(momentum), region.low / h_min, region.high / h_max, region.radius_at_low
    )


def _characteristic(
    lr: Any, momentum: Any, curvature: Any, form: str, nu: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Trace T and determinant D of `momentum_operator`, and T² - 4 D, after checks."""
    step, mu, h = (
        _float64(name, value)
        for name, value in (("lr", lr), ("momentum", momentum), ("curvature", curvature))
    )
    require(bool((step > 0.0).all()), "lr", float(step.min()), "> 0 everywhere")
    require(bool((mu.abs() < 1.0).all()), "momentum", _largest(mu), "in (-1, 1) everywhere")
    try:
        step, mu, h = torch.broadcast_tensors(step, mu, h)
    except RuntimeError:
        shapes = ", ".join(str(tuple(value.shape)) for value in (step, mu, h))
        raise ValueError(
            f"Invalid shapes: {shapes} of lr, momentum and curvature; give what broadcasts"
        ) from None
    w0, w1 = _weights(mu, form, nu)
    products = step * h
    moved = (w0 + w1) * products
    # T² - 4 D multiplied out: of terms that are small where it is, as near mu = 1
    gap = (1.0 - mu) ** 2 - 2.0 * ((1.0 - mu) * w0 + (1.0 + mu) * w1) * products + moved**2
    return 1.0 + mu - moved, mu * (1.0 - w0 * products), gap


def _weights(mu: Tensor, form: str, nu: float | None) -> tuple[Tensor, Tensor]:
    """w0 and w1: how much of the gradient and of the sum of gradients is in a step."""
    require(form in FORMS, "form", form, f"one of {', '.join(FORMS)}")
    has_nu = form.startswith("qhm")
    if nu is None:
        require(not has_nu, "nu", nu, f"given with {form!r}, in [0, 1]")
        zero, one = torch.zeros_like(mu), torch.ones_like(mu)
        return (zero, one) if form == "polyak" else (one, mu)
    require(has_nu, "nu", nu, f"left out: {form!r} has none")
    require_number("nu", nu)
    require(0.0 <= nu <= 1.0, "nu", nu, "in [0, 1]")
    direct = torch.full_like(mu, 1.0 - float(nu))
    return direct, float(nu) * (1.0 - mu if form == "qhm" else torch.ones_like(mu))


def _float64(name: str, value: Any) -> Tensor:
    try:
        array = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, depending on the type
        raise TypeError(
            f"Invalid {name} type: {type(value).__name__}; give a number or an array"
        ) from error
    require(array.numel() > 0, name, tuple(array.shape), "of a shape with elements")
    require(bool(array.isfinite().all()), name, _largest(array), "finite everywhere")
    return array


def _largest(array: Tensor) -> float:
    """The element furthest from 0, for an error; NaN if there is one."""
    return float(array.flatten()[array.abs().argmax()])
