"""QHM: quasi-hyperbolic momentum, of which most momentum methods are special cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Module

from yfkernels._checks import check_bound, check_fraction, finite, require, require_number
from yfkernels.ops import rules
from yfkernels.ops.averaging import WeightAverage
from yfkernels.optim import momentum_methods
from yfkernels.optim._fused import FusedOptimizer
from yfkernels.optim._group_options import Group, GroupOptions, settings
from yfkernels.optim.momentum_methods import QHMSettings
from yfkernels.tuners.gate import Gate

if TYPE_CHECKING:
    from typing_extensions import Self


class QHM(FusedOptimizer):
    r"""Quasi-hyperbolic momentum: a weighted mean of plain SGD and momentum SGD.

        d <- beta d + (1 - beta) g,    p <- p - lr [(1 - nu) g + nu d]

    A step is one launch and moves 20 bytes per float32 parameter, as torch's fused SGD with
    momentum does. The class methods give the settings at which QHM is exactly another method.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: learning rate, a float or a one-element tensor. The average d is damped by 1 - beta, so
            the equivalent of `torch.optim.SGD(lr, momentum)` is lr / (1 - momentum); see
            `from_momentum`. Per group, as are all options up to `max_norm`, and `maximize`.
        nu: weight of the average in the update; 0 is plain SGD, 1 is momentum SGD.
        beta: smoothing of the average, in [0, 1). The authors recommend 0.999 with nu 0.7.
        weight_decay: L2 penalty, added to the gradient.
        decoupled_weight_decay: shrink the parameters by 1 - lr * weight_decay instead.
        max_norm: bound on the norm of the whole gradient, as `clip_grad_norm_` has; None for none.
            The norm is taken over all groups and reads 4 more bytes per parameter; each group has
            its own bound.
        skip_nonfinite: measure the gradient norm even without a clip, and skip a step whose
            gradient is not finite. With neither, only GradScaler can make a step be skipped.
        stochastic_rounding: round bfloat16 and float16 parameters stochastically instead of
            keeping a float32 master copy.
        average: a `WeightAverage` to keep beside the weights, or None; see `averaged`.
        maximize: ascend instead of descend.
        capturable: safe in torch.cuda.graph; give lr as a CUDA tensor to change it between replays.
        backend: "auto", "native", "triton" or "torch".
        process_group: the processes that hold the other parts of the model, if the parameters do
            not say so themselves as DTensors (FSDP2) do: FullyShardedDataParallel's
            `process_group`, or the stages of a pipeline. ZeroRedundancyOptimizer's group is found
            automatically.
        foreach, differentiable: accepted because torch's optimizers have them. `foreach` has no
            effect; `differentiable` must be False.
        fused: True unscales gradients and skips steps inside step() under GradScaler, as torch's
            fused optimizers do. Otherwise GradScaler does both, at the cost of one more pass over
            the gradients.

    Raises:
        ValueError: an option out of its range; no parameters.
        RuntimeError: the requested backend cannot run on the parameters' device.

    Source: Ma & Yarats, "Quasi-hyperbolic momentum and Adam for deep learning", ICLR 2019.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = QHM.from_nesterov(model.parameters(), lr=0.1, momentum=0.9)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        *,
        nu: float = 0.7,
        beta: float = 0.999,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        max_norm: float | None = None,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        average: WeightAverage | None = None,
        maximize: bool = False,
        capturable: bool = False,
        backend: str = "auto",
        process_group: Any = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "nu": nu,
            "beta": beta,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "max_norm": max_norm,
            "maximize": maximize,
        }
        super().__init__(
            params,
            defaults,
            rules.QHM,
            Gate(rules.QHM, skip_nonfinite=bool(skip_nonfinite)),
            _OPTIONS,
            backend=backend,
            capturable=capturable,
            stochastic_rounding=stochastic_rounding,
            average=average,
            process_group=process_group,
            foreach=foreach,
            fused=fused,
            differentiable=differentiable,
        )

    # ---- the methods it covers (docs/optimizers/qhm.md). Other options are passed to the
    # constructor. Groups may override the arguments, under the same names.

    @classmethod
    def from_sgd(cls, params: Any, *, lr: float, **options: Any) -> Self:
        """Plain SGD: nu = 0."""
        return cls._from("sgd", params, options, lr=lr)

    @classmethod
    def from_momentum(cls, params: Any, *, lr: float, momentum: float, **options: Any) -> Self:
        """torch.optim.SGD(params, lr, momentum): heavy ball without dampening."""
        return cls._from("momentum", params, options, lr=lr, momentum=momentum)

    @classmethod
    def from_nesterov(cls, params: Any, *, lr: float, momentum: float, **options: Any) -> Self:
        """torch.optim.SGD(params, lr, momentum, nesterov=True).

        Args:
            params: parameters or parameter groups. A group may have its own lr or momentum, in
                SGD's terms; after construction `lr` in the groups is QHM's, lr / (1 - momentum).
            lr: SGD's learning rate.
            momentum: SGD's momentum, in [0, 1).
            options: options of the constructor, except nu and beta.
        """
        return cls._from("nesterov", params, options, lr=lr, momentum=momentum)

    @classmethod
    def from_pid(cls, params: Any, *, kp: float, ki: float, kd: float, **options: Any) -> Self:
        """A PID controller of the gradient with gains kp, ki, kd; kp and kd of opposite signs."""
        return cls._from("pid", params, options, kp=kp, ki=ki, kd=kd)

    @classmethod
    def from_synthesized_nesterov(
        cls, params: Any, *, alpha: float, beta1: float, beta2: float, **options: Any
    ) -> Self:
        """Synthesized Nesterov variant (Lessard, Recht & Packard 2016), in its y iterate."""
        given = {"alpha": alpha, "beta1": beta1, "beta2": beta2}
        return cls._from("synthesized_nesterov", params, options, **given)

    @classmethod
    def from_robust_momentum(
        cls, params: Any, *, L: float, kappa: float, rho: float, **options: Any
    ) -> Self:
        """The robust momentum method (Cyrus et al. 2018).

        Args:
            params: parameters or parameter groups.
            L: largest curvature.
            kappa: condition number, above 1.
            rho: rate of convergence, in [1 - 1/sqrt(kappa), 1 - 1/kappa].
            options: options of the constructor, except lr, nu and beta.
        """
        return cls._from("robust_momentum", params, options, L=L, kappa=kappa, rho=rho)

    @classmethod
    def from_triple_momentum(cls, params: Any, *, L: float, kappa: float, **options: Any) -> Self:
        """The triple momentum method (Van Scoy, Freeman & Lynch 2018): the fastest robust one."""
        return cls._from("triple_momentum", params, options, L=L, kappa=kappa)

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
            params: parameters or parameter groups.
            delta: short step.
            kappa: long step, at least eps² xi.
            xi: statistical advantage.
            eps: the authors' constant.
            options: options of the constructor, except lr, nu and beta.
        """
        return cls._from("accsgd", params, options, delta=delta, kappa=kappa, xi=xi, eps=eps)

    @classmethod
    def _from(cls, method: str, params: Any, options: dict[str, Any], **given: Any) -> Self:
        settings_of = getattr(momentum_methods, method)
        for name in sorted(options.keys() & set(QHMSettings._fields)):
            raise TypeError(f"Invalid option {name!r}: QHM.from_{method} sets it; leave it out")
        settings = settings_of(**given)._asdict()
        groups = params if isinstance(params, Tensor | Module) else list(params)
        if isinstance(groups, list) and groups and isinstance(groups[0], dict):
            groups = [_group_in_terms_of_qhm(group, settings_of, given) for group in groups]
        return cls(groups, **settings, **options)


def _check(group: Group) -> None:
    check_bound("max_norm", group["max_norm"])
    check_fraction("beta", group["beta"])
    require_number("nu", group["nu"])
    # the conversions go beyond [0, 1]: a PID controller, synthesized Nesterov
    require(finite(group["nu"]), "nu", group["nu"], "finite; in [0, 1] for a weighted mean")


def _values(group: Group, lr: float) -> list[float]:
    return settings(
        rules.QHM,
        group,
        lr,
        max_norm=float(group["max_norm"] or math.inf),
        beta=float(group["beta"]),
        nu=float(group["nu"]),
    )


_OPTIONS = GroupOptions(_check, _values, frozenset(("nu", "beta")))  # SGD's buffer is another


def _group_in_terms_of_qhm(
    group: dict[str, Any], settings_of: Callable[..., QHMSettings], given: dict[str, Any]
) -> dict[str, Any]:
    """A parameter group with the method's own arguments replaced by QHM's."""
    own = {name: group[name] for name in given if name in group}
    rest = {name: value for name, value in group.items() if name not in own}
    return rest | settings_of(**(given | own))._asdict() if own else rest
