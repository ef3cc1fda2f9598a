"""QHM: quasi-hyperbolic momentum, which most momentum methods are a case of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from yfkernels._checks import (
    check_fraction,
    check_positive,
    finite,
    require,
    require_number,
)
from yfkernels.ops import rules
from yfkernels.optim._gated import GatedOptimizer

if TYPE_CHECKING:
    from typing_extensions import Self


class QHM(GatedOptimizer):
    r"""Quasi-hyperbolic momentum: a weighted mean of plain SGD and momentum SGD.

        d <- beta d + (1 - beta) g,    p <- p - lr [(1 - nu) g + nu d]

    One launch, 20 bytes a float32 parameter, as torch's fused SGD with momentum. The class methods
    give the settings at which it is exactly another method.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: learning rate, a float or a one-element tensor. The average d is damped by 1 - beta:
            `torch.optim.SGD(lr, momentum)` takes lr / (1 - momentum) here, see `from_momentum`.
            Per group, as are all options up to `decoupled_weight_decay`, and `maximize`.
        nu: weight of the average in the move; 0 is plain SGD, 1 momentum SGD.
        beta: smoothing of the average, in [0, 1). 0.999 with nu 0.7 is the authors' advice.
        weight_decay: L2 penalty, added to the gradient.
        decoupled_weight_decay: shrink the parameters by 1 - lr * weight_decay instead.
        skip_nonfinite: measure the gradient first (4 bytes more a parameter) and skip a step in
            which it is not finite. Without, only GradScaler's verdict is heeded.
        stochastic_rounding: round bfloat16 and float16 parameters stochastically, without a
            float32 master copy.
        maximize: ascend instead of descend.
        capturable: safe in torch.cuda.graph; give lr as a CUDA tensor to change it between replays.
        backend: "auto", "native", "triton" or "torch".

    Raises:
        ValueError: an option out of its range; no parameters.
        RuntimeError: the backend asked for by name cannot serve the parameters' device.

    Source: Ma & Yarats, "Quasi-hyperbolic momentum and Adam for deep learning", ICLR 2019.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = QHM.from_nesterov(model.parameters(), lr=0.1, momentum=0.9)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
    """

    _state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        *,
        nu: float = 0.7,
        beta: float = 0.999,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        maximize: bool = False,
        capturable: bool = False,
        backend: str = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "nu": nu,
            "beta": beta,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(
            params,
            rules.QHM,
            defaults,
            skip_nonfinite=skip_nonfinite,
            stochastic_rounding=stochastic_rounding,
            capturable=capturable,
            backend=backend,
        )

    # ---- the methods it covers (Ma & Yarats, section 4 and appendix; docs/qhm.md)

    @classmethod
    def from_sgd(cls, params: Any, *, lr: float, **options: Any) -> Self:
        """Plain SGD: nu = 0. `options` are those of the constructor, here and below."""
        return cls(params, lr, nu=0.0, **options)

    @classmethod
    def from_momentum(cls, params: Any, *, lr: float, momentum: float, **options: Any) -> Self:
        """torch.optim.SGD(lr, momentum): heavy ball without dampening."""
        require_number("lr", lr)
        check_fraction("momentum", momentum)
        return cls(params, lr / (1.0 - momentum), nu=1.0, beta=momentum, **options)

    @classmethod
    def from_nesterov(cls, params: Any, *, lr: float, momentum: float, **options: Any) -> Self:
        """torch.optim.SGD(lr, momentum, nesterov=True)."""
        require_number("lr", lr)
        check_fraction("momentum", momentum)
        return cls(params, lr / (1.0 - momentum), nu=momentum, beta=momentum, **options)

    @classmethod
    def from_pid(cls, params: Any, *, kp: float, ki: float, kd: float, **options: Any) -> Self:
        """A PID controller of the gradient with gains kp, ki, kd.

        Raises:
            ValueError: no QHM is this controller: its beta would not be in [0, 1).
        """
        for name, gain in (("kp", kp), ("ki", ki), ("kd", kd)):
            require_number(name, gain)
        require(finite(ki) and ki != 0.0, "ki", ki, "finite and not 0")
        require(finite(kd) and kd != 0.0, "kd", kd, "finite and not 0")
        require(finite(kp) and kp != kd, "kp", kp, f"finite and not kd, {kd!r}")
        beta = kd / (kd - kp)
        mend = f"such that kd / (kd - kp), now {beta!r}, is in [0, 1)"
        require(0.0 <= beta < 1.0, "(kp, kd)", (kp, kd), mend)
        return cls(params, ki, nu=kp * kp / (ki * kd), beta=beta, **options)

    @classmethod
    def from_synthesized_nesterov(
        cls, params: Any, *, alpha: float, beta1: float, beta2: float, **options: Any
    ) -> Self:
        """Synthesized Nesterov variant (Lessard, Recht & Packard), in its y iterate."""
        require_number("alpha", alpha)
        check_fraction("beta1", beta1)
        require(beta1 > 0.0, "beta1", beta1, "in (0, 1)")
        require_number("beta2", beta2)
        nu = 1.0 - (1.0 - beta1) * beta2 / beta1
        return cls(params, alpha / (1.0 - beta1), nu=nu, beta=beta1, **options)

    @classmethod
    def from_robust_momentum(
        cls, params: Any, *, L: float, kappa: float, rho: float, **options: Any
    ) -> Self:
        """The robust momentum method (Cyrus et al. 2018).

        Args:
            L: largest curvature. kappa: condition number, above 1.
            rho: rate of convergence, in [1 - 1/sqrt(kappa), 1 - 1/kappa].
        """
        check_positive("L", L)
        _check_condition(kappa)
        require_number("rho", rho)
        low, high = 1.0 - 1.0 / math.sqrt(kappa), 1.0 - 1.0 / kappa
        ok = low * (1.0 - 1e-12) <= rho <= high * (1.0 + 1e-12)
        require(ok, "rho", rho, f"in [1 - 1/sqrt(kappa), 1 - 1/kappa] = [{low}, {high}]")
        alpha = kappa * (1.0 - rho) ** 2 * (1.0 + rho) / L
        beta1 = kappa * rho**3 / (kappa - 1.0)
        beta2 = rho**3 / ((kappa - 1.0) * (1.0 - rho) ** 2 * (1.0 + rho))
        return cls.from_synthesized_nesterov(
            params, alpha=alpha, beta1=beta1, beta2=beta2, **options
        )

    @classmethod
    def from_triple_momentum(cls, params: Any, *, L: float, kappa: float, **options: Any) -> Self:
        """The triple momentum method (Van Scoy, Freeman & Lynch 2018): the fastest robust one."""
        _check_condition(kappa)
        rho = 1.0 - 1.0 / math.sqrt(kappa)
        return cls.from_robust_momentum(params, L=L, kappa=kappa, rho=rho, **options)

    @classmethod
    def from_accsgd(
        cls,
        params: Any,
        *,
        delta: float,
        kappa: float,
        xi: float,
        eps: float = 0.7,
        **options: Any,
    ) -> Self:
        """AccSGD (Kidambi et al. 2018).

        Args:
            delta: short step. kappa: long step, at least eps² xi. xi: statistical advantage.
        """
        for name, value in (("delta", delta), ("kappa", kappa), ("xi", xi), ("eps", eps)):
            check_positive(name, value)
        beta = (kappa - eps * eps * xi) / (kappa + eps * xi)
        require(beta >= 0.0, "kappa", kappa, f">= eps² xi = {eps * eps * xi}")
        nu = (eps * xi - 1.0) / (eps * (1.0 + xi))
        return cls(params, delta * eps * (1.0 + xi) / (1.0 + eps), nu=nu, beta=beta, **options)

    # ---- for the base

    def _coefficients(self, group: dict[str, Any]) -> dict[str, float]:
        return {"beta": float(group["beta"]), "nu": float(group["nu"])}

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_fraction("beta", group["beta"])
        require_number("nu", group["nu"])
        # the conversions go beyond [0, 1]: a PID controller, synthesized Nesterov
        require(finite(group["nu"]), "nu", group["nu"], "finite; in [0, 1] for a weighted mean")


def _check_condition(kappa: Any) -> None:
    require_number("kappa", kappa)
    require(finite(kappa) and kappa > 1.0, "kappa", kappa, "finite and > 1")
