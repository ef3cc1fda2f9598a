"""QHAdam: Adam with quasi-hyperbolic averages."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor

from yfkernels._checks import (
    check_betas,
    check_bound,
    check_pair,
    check_positive,
    finite,
    require,
)
from yfkernels.ops import rules
from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.rules import Rule
from yfkernels.optim._fused import FusedOptimizer
from yfkernels.optim._group_options import Group, GroupOptions, settings
from yfkernels.optim._moments import by_bits, check_betas_of
from yfkernels.tuners.gate import Gate


class QHAdam(FusedOptimizer):
    r"""Adam whose two averages are mixed with the current gradient.

        p <- p - lr [(1 - nu1) g + nu1 m^] / (sqrt((1 - nu2) g² + nu2 v^) + eps)

    with m^ = m / (1 - beta1^t), v^ = v / (1 - beta2^t) and t the number of steps that the parameter
    itself has taken. A step is one launch and moves 28 bytes per float32 parameter, as torch's
    fused Adam does.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: learning rate, a float or a one-element tensor. Per group, as are all options up to
            `max_norm`, and `maximize`.
        nus: weights of the averages; (1, 1) is Adam, (beta1, 1) is NAdam once beta1^t has faded.
        betas: smoothing of the averages of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: L2 penalty, added to the gradient.
        decoupled_weight_decay: shrink the parameters by 1 - lr * weight_decay instead (AdamW).
        max_norm: bound on the norm of the whole gradient, as `clip_grad_norm_` has; None for none.
            The norm is taken over all groups and reads 4 more bytes per parameter; each group has
            its own bound.
        skip_nonfinite: measure the gradient norm even without a clip, and skip a step whose
            gradient is not finite. With neither, only GradScaler can make a step be skipped.
        state_bits: 32 keeps the moments in float32; 8 in a byte each, rounded stochastically: 2
            bytes of state for each parameter, and 16 of traffic instead of 28. Gradients beyond
            1e7 or below 1e-12 are out of their range. Needs betas[0]² <= betas[1].
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
        >>> opt = QHAdam(model.parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        *,
        nus: tuple[float, float] = (0.7, 1.0),
        betas: tuple[float, float] = (0.995, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        max_norm: float | None = None,
        skip_nonfinite: bool = False,
        state_bits: int = 32,
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
            "nus": nus,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "max_norm": max_norm,
            "maximize": maximize,
        }
        rule = by_bits(state_bits, rules.QHADAM, rules.QHADAM_BYTES)
        super().__init__(
            params,
            defaults,
            rule,
            Gate(rule, skip_nonfinite=bool(skip_nonfinite)),
            GroupOptions(partial(_check, rule), _values, frozenset(("nus",))),
            backend=backend,
            capturable=capturable,
            stochastic_rounding=stochastic_rounding,
            average=average,
            process_group=process_group,
            foreach=foreach,
            fused=fused,
            differentiable=differentiable,
        )


def _check(rule: Rule, group: Group) -> None:
    check_bound("max_norm", group["max_norm"])
    check_betas(group["betas"])
    check_betas_of(rule, group["betas"])
    check_positive("eps", group["eps"])
    check_pair("nus", group["nus"])
    nu1, nu2 = group["nus"]
    require(finite(nu1), "nus[0]", nu1, "finite; in [0, 1] for a weighted mean")
    require(0.0 <= nu2 <= 1.0, "nus[1]", nu2, "in [0, 1]: it is under a square root")


def _values(group: Group, lr: float) -> list[float]:
    (beta1, beta2), (nu1, nu2) = group["betas"], group["nus"]
    return settings(
        rules.QHADAM,
        group,
        lr,
        max_norm=float(group["max_norm"] or math.inf),
        beta1=float(beta1),
        beta2=float(beta2),
        nu1=float(nu1),
        nu2=float(nu2),
        eps=float(group["eps"]),
    )
