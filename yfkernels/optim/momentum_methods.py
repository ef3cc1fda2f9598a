"""Momentum methods as settings of QHM (Ma & Yarats 2019, section 4 and appendix)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from yfkernels._checks import check_fraction, check_positive, finite, require, require_number


class QHMSettings(NamedTuple):
    """The arguments of QHM that reproduce a method."""

    lr: Any  # a number, or a tensor if the user gave one
    nu: float
    beta: float


def sgd(lr: Any) -> QHMSettings:
    """Plain SGD."""
    return QHMSettings(lr, nu=0.0, beta=0.0)


def momentum(lr: Any, momentum: float) -> QHMSettings:
    """torch.optim.SGD(lr, momentum): heavy ball without dampening."""
    return QHMSettings(_undamped(lr, momentum), nu=1.0, beta=momentum)


def nesterov(lr: Any, momentum: float) -> QHMSettings:
    """torch.optim.SGD(lr, momentum, nesterov=True)."""
    return QHMSettings(_undamped(lr, momentum), nu=momentum, beta=momentum)


def _undamped(lr: Any, momentum: float) -> Any:
    check_fraction("momentum", momentum)
    require_number("lr", lr)
    require(float(lr) >= 0.0, "lr", lr, ">= 0")
    return lr / (1.0 - momentum)


def pid(kp: float, ki: float, kd: float) -> QHMSettings:
    """A PID controller of the gradient."""
    for name, gain in (("kp", kp), ("ki", ki), ("kd", kd)):
        require_number(name, gain)
        require(finite(gain), name, gain, "finite")
    require(ki != 0.0, "ki", ki, "other than 0")
    require(kd != 0.0, "kd", kd, "other than 0")
    fix = "of opposite signs; otherwise no QHM is equivalent to the controller"
    require(kp * kd < 0.0, "(kp, kd)", (kp, kd), fix)
    return QHMSettings(ki, nu=kp * kp / (ki * kd), beta=kd / (kd - kp))


def synthesized_nesterov(alpha: Any, beta1: float, beta2: float) -> QHMSettings:
    """Synthesized Nesterov variant (Lessard, Recht & Packard 2016), in its y iterate."""
    require_number("alpha", alpha)
    check_fraction("beta1", beta1)
    require(beta1 > 0.0, "beta1", beta1, "in (0, 1)")
    require_number("beta2", beta2)
    return QHMSettings(alpha / (1.0 - beta1), nu=1.0 - (1.0 - beta1) * beta2 / beta1, beta=beta1)


def robust_momentum(L: float, kappa: float, rho: float) -> QHMSettings:
    """The robust momentum method (Cyrus et al. 2018)."""
    check_positive("L", L)
    _check_condition(kappa)
    require_number("rho", rho)
    low, high = 1.0 - 1.0 / math.sqrt(kappa), 1.0 - 1.0 / kappa
    ok = low * (1.0 - 1e-12) <= rho <= high * (1.0 + 1e-12)
    require(ok, "rho", rho, f"in [1 - 1/sqrt(kappa), 1 - 1/kappa] = [{low}, {high}]")
    return synthesized_nesterov(
        alpha=kappa * (1.0 - rho) ** 2 * (1.0 + rho) / L,
        beta1=kappa * rho**3 / (kappa - 1.0),
        beta2=rho**3 / ((kappa - 1.0) * (1.0 - rho) ** 2 * (1.0 + rho)),
    )


def triple_momentum(L: float, kappa: float) -> QHMSettings:
    """The triple momentum method (Van Scoy, Freeman & Lynch 2018)."""
    _check_condition(kappa)
    return robust_momentum(L, kappa, rho=1.0 - 1.0 / math.sqrt(kappa))


def accsgd(delta: float, kappa: float, xi: float, eps: float) -> QHMSettings:
    """AccSGD (Kidambi et al. 2018)."""
    for name, value in (("delta", delta), ("kappa", kappa), ("xi", xi), ("eps", eps)):
        check_positive(name, value)
    beta = (kappa - eps * eps * xi) / (kappa + eps * xi)
    require(beta >= 0.0, "kappa", kappa, f">= eps² xi = {eps * eps * xi}")
    nu = (eps * xi - 1.0) / (eps * (1.0 + xi))
    return QHMSettings(delta * eps * (1.0 + xi) / (1.0 + eps), nu, beta)


def _check_condition(kappa: Any) -> None:
    require_number("kappa", kappa)
    require(finite(kappa) and kappa > 1.0, "kappa", kappa, "finite and > 1")
