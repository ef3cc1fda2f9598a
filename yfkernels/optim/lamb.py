"""LAMB: Adam whose step, for each tensor, is scaled to the norm of that tensor."""

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
    require,
)
from yfkernels._warn import warn
from yfkernels.ops import rules
from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.rules import BiasCorrection, Rule
from yfkernels.optim._fused import FusedOptimizer
from yfkernels.optim._group_options import Group, GroupOptions, settings
from yfkernels.optim._moments import by_bits, check_betas_of
from yfkernels.optim.lamb_presets import default, require_agreement, resolve
from yfkernels.tuners.gate import Gate

_CORRECTIONS = {
    True: BiasCorrection.MOMENTS,
    False: BiasCorrection.NONE,
    "lr": BiasCorrection.LR,
}


class LAMB(FusedOptimizer):
    r"""Layer-wise adaptive moments, for training with large batches.

        m <- b1 m + (1-b1) g,   v <- b2 v + (1-b2) g²,   u = m^ / (sqrt(v^) + eps) + wd p
        p <- p - lr ‖p‖/‖u‖ u   for each tensor

    Several different optimizers go by this name; `preset` selects the one that a recipe was written
    for (docs/optimizers/lamb.md). A step is two launches and 40 bytes per float32 parameter, or
    three and 44 with the clip of the gradient norm. Gradients are not modified.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: learning rate, a float or a one-element tensor; roughly the relative change of a
            tensor in one step. Per group, as are all options up to `decoupled_weight_decay`, and
            `maximize`.
        betas: smoothing of the averages of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: decay inside the direction u.
        max_grad_norm: bound on the norm of the whole gradient; None or 0 for no clip. The norm is
            taken over all groups; each group has its own bound.
        bias_correction: True debiases both averages; False does not; "lr" corrects the learning
            rate instead, outside the ratio (DeepSpeed).
        grad_averaging: the gradient enters its average with weight 1 - b1; False for weight 1.
        always_adapt: whether tensors without weight decay get a trust ratio too. If False, they
            take a plain Adam step, as in apex and timm. Biases and normalization layers belong in
            such a group; see `param_groups`.
        trust_clip: bound on the ratio: None, a number (1.0 is timm's trust_clip), or a pair
            (lowest, highest).
        trust_norm_bounds: pair to which ‖p‖ is clamped before the division; None for no clamp.
        decoupled_weight_decay: shrink the parameters by 1 - lr * weight_decay instead.
        preset: "paper", "apex", "timm", "nvlamb", "deepspeed", "v3" or None. Fixes every option
            from `eps` to `decoupled_weight_decay` except `weight_decay`, whose default is 0 with
            the last two.
        skip_nonfinite: measure the gradient norm even without a clip (reads 4 more bytes per
            parameter). If the norm was measured and is not finite, the step changes nothing but
            `skipped_steps`. If it was not measured, only GradScaler can make a step be skipped.
        state_bits: 32 keeps the moments in float32; 8 in a byte each, rounded stochastically: 2
            bytes of state for each parameter, and 22 of traffic instead of 40. Gradients beyond
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
        ValueError: an option out of its range, or one that contradicts the preset; no parameters.
        RuntimeError: the requested backend cannot run on the parameters' device.

    A parameter whose gradient is None is left out of the step; each parameter counts its own steps.
    Sharded parameters (FSDP2) need one all-reduce per step for their norms, and one more for the
    clip.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arXiv 1904.00962 v5, algorithm 2.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = LAMB(yfkernels.param_groups(model, weight_decay=0.01), lr=2e-3, preset="timm")
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
        >>> sorted(opt.trust_ratios())
        ['bias', 'weight']
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = default(1e-6),
        weight_decay: float = default(0.01),
        max_grad_norm: float | None = default(1.0),
        bias_correction: bool | str = default(True),
        grad_averaging: bool = default(True),
        always_adapt: bool = default(False),
        trust_clip: float | tuple[float, float] | None = default(None),
        trust_norm_bounds: tuple[float, float] | None = default(None),
        decoupled_weight_decay: bool = default(False),
        preset: str | None = None,
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
        options = {
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "bias_correction": bias_correction,
            "grad_averaging": grad_averaging,
            "always_adapt": always_adapt,
            "trust_clip": trust_clip,
            "trust_norm_bounds": trust_norm_bounds,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        defaults = {"lr": lr, "betas": betas, **resolve(preset, options), "maximize": maximize}
        rule = by_bits(state_bits, rules.LAMB, rules.LAMB_BYTES)
        super().__init__(
            params,
            defaults,
            rule,
            Gate(rule, skip_nonfinite=bool(skip_nonfinite), always_sums=True),
            GroupOptions(partial(_check, preset, rule), _values, _DEFINING, _notice_plain_adam),
            by_norms=True,
            backend=backend,
            capturable=capturable,
            stochastic_rounding=stochastic_rounding,
            average=average,
            process_group=process_group,
            foreach=foreach,
            fused=fused,
            differentiable=differentiable,
        )

    def trust_ratios(self) -> dict[str, float]:
        """The ratio ‖p‖/‖u‖ that each tensor's last step was scaled by, by parameter name.

        Unnamed parameters are listed by position. Empty until this object takes a step. On CUDA
        this waits for the device.
        """
        return self._trust_ratios()


_DEFINING = frozenset(("grad_averaging", "trust_norm_bounds"))


def _adapts(group: Group) -> bool:
    return bool(group["always_adapt"] or group["weight_decay"] != 0.0)


def _notice_plain_adam(groups: list[Group]) -> bool:
    """Says so if no group's ratio is ever other than 1."""
    if any(map(_adapts, groups)):
        return False
    warn(
        "LAMB adapts no tensor, so its steps are Adam's: every parameter group has "
        "weight_decay=0 and always_adapt=False. Pass always_adapt=True, or the weight "
        "decay to the framework that makes the groups (Trainer's weight_decay)"
    )
    return True


def _values(group: Group, lr: float) -> list[float]:
    beta1, beta2 = group["betas"]
    norm_min, norm_max = group["trust_norm_bounds"] or (0.0, math.inf)
    ratio_min, ratio_max = _ratio_bounds(group["trust_clip"])
    return settings(
        rules.LAMB,
        group,
        lr,
        max_norm=float(group["max_grad_norm"] or math.inf),
        beta1=float(beta1),
        beta2=float(beta2),
        beta3=1.0 - beta1 if group["grad_averaging"] else 1.0,
        eps=float(group["eps"]),
        correction=float(_CORRECTIONS[group["bias_correction"]]),
        adapts=1.0 if _adapts(group) else 0.0,
        norm_min=float(norm_min),
        norm_max=float(norm_max),
        ratio_min=float(ratio_min),
        ratio_max=float(ratio_max),
    )


def _check(preset: str | None, rule: Rule, group: Group) -> None:
    own = group.get("preset", preset)
    require(own == preset, "preset", own, "given to the constructor")
    require_agreement(preset, group)
    check_betas(group["betas"])
    check_betas_of(rule, group["betas"])
    check_positive("eps", group["eps"])
    check_bound("max_grad_norm", group["max_grad_norm"])
    correction = group["bias_correction"]
    ok = isinstance(correction, bool | str) and correction in _CORRECTIONS
    require(ok, "bias_correction", correction, "True, False or 'lr'")
    if group["trust_norm_bounds"] is not None:
        _check_bounds("trust_norm_bounds", group["trust_norm_bounds"])
    clip = group["trust_clip"]
    if isinstance(clip, tuple | list):
        _check_bounds("trust_clip", clip)
    elif clip is not None and clip is not False:
        check_positive("trust_clip", clip)


def _ratio_bounds(clip: float | tuple[float, float] | None) -> tuple[float, float]:
    if isinstance(clip, tuple | list):
        lowest, highest = clip
        return lowest, highest
    return 0.0, float(clip or math.inf)


def _check_bounds(name: str, bounds: Any) -> None:
    check_pair(name, bounds)
    low, high = bounds
    require(0.0 <= low <= high, name, bounds, "a pair with 0 <= lowest <= highest")
