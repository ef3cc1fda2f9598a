"""LAMB in plain float64 NumPy: the slow, obvious optimizer that every backend has to equal.

It follows the specification line by line and shares no code with the package; a preset is no more
than a set of options.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from oracle.moments import MomentsGroup
from oracle.vectors import Array
from oracle.walk import Oracle, Trace

# Every option that a preset decides; weight_decay is its default and may be given.
_APEX: dict[str, Any] = {
    "eps": 1e-6,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "bias_correction": True,
    "grad_averaging": True,
    "always_adapt": False,
    "trust_clip": None,
    "trust_norm_bounds": None,
    "decoupled_weight_decay": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "apex": _APEX,
    "timm": _APEX,
    "nvlamb": {**_APEX, "always_adapt": True},
    "paper": {**_APEX, "always_adapt": True, "max_grad_norm": None},
    "deepspeed": {
        **_APEX,
        "always_adapt": True,
        "max_grad_norm": None,
        "bias_correction": "lr",
        "eps": 1e-8,
        "trust_clip": (0.01, 10.0),
        "weight_decay": 0.0,
    },
    "v3": {
        **_APEX,
        "always_adapt": True,
        "max_grad_norm": None,
        "bias_correction": False,
        "trust_norm_bounds": (0.0, 10.0),
        "weight_decay": 0.0,
    },
}


@dataclass
class LambGroup(MomentsGroup):
    """One parameter group with all options of LAMB."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    max_grad_norm: float | None = 1.0
    bias_correction: bool | Literal["lr"] = True
    grad_averaging: bool = True
    always_adapt: bool = False
    trust_clip: float | tuple[float, float] | None = None
    trust_norm_bounds: tuple[float, float] | None = None
    trust_ratios: list[float] = field(init=False)  # the last of each; nan before the first step

    def __post_init__(self) -> None:
        super().__post_init__()
        self.trust_ratios = [math.nan] * len(self.params)

    def clip_divisor(self, norm: float) -> float:
        return max(1.0, norm / self.max_grad_norm) if self.max_grad_norm else 1.0


@dataclass
class LambTrace(Trace):
    """What one taken step of LAMB saw and decided."""

    trust_ratios: list[float]


class LambOracle(Oracle[LambGroup, LambTrace]):
    """The optimizer. The norm behind the clipping runs over all groups, clipped or not."""

    def measures(self) -> bool:
        return self.skip_nonfinite or any(group.max_grad_norm for group in self.groups)

    def move(self, group: LambGroup, i: int, g: Array, norm: float) -> None:
        p, lr, wd, t = group.params[i], group.lr, group.weight_decay, group.steps[i]
        b1, b2 = group.betas
        b3 = 1.0 - b1 if group.grad_averaging else 1.0
        g = g / group.clip_divisor(norm)

        # The moments.
        m = b1 * group.exp_avgs[i] + b3 * g
        v = b2 * group.exp_avg_sqs[i] + (1.0 - b2) * g**2
        magnitude = group.exp_avg_magnitudes[i] = b1 * group.exp_avg_magnitudes[i] + b3 * np.abs(g)
        group.advance(i, m, v, self.origin)

        # The norm behind the ratio is that of the exact update, the move what is kept of it.
        ratio = group.trust_ratios[i] = trust_ratio(group, p, update(group, p, m, v, t))
        size = update(group, np.abs(p), magnitude, group.exp_avg_sqs[i], t)
        group.path[i] += lr * lr_correction(group, t) * ratio * size
        if group.decoupled_weight_decay:
            group.path[i] += lr * wd * np.abs(p)
        self.settle(group, i, p)

    def settle(self, group: LambGroup, i: int, p: Array) -> None:
        """Moves parameter i from p by its moments as they are kept."""
        lr, t = group.lr, group.steps[i]
        u = update(group, p, group.exp_avgs[i], group.exp_avg_sqs[i], t)
        if group.decoupled_weight_decay:
            p = p * (1.0 - lr * group.weight_decay)
        group.params[i] = p - lr * lr_correction(group, t) * group.trust_ratios[i] * u

    def trace(self, norm: float) -> LambTrace:
        return LambTrace(
            grad_norm=norm,
            steps=self.all_steps(),
            skipped_steps=self.skipped_steps,
            trust_ratios=[ratio for group in self.groups for ratio in group.trust_ratios],
        )


def update(group: LambGroup, p: Array, m: Array, v: Array, t: int) -> Array:
    """u, before it is scaled; the moments are debiased, or lr instead of them, or nothing."""
    b1, b2 = group.betas
    bc1, bc2 = 1.0 - b1**t, 1.0 - b2**t
    if group.bias_correction is not True:
        bc1 = bc2 = 1.0
    u = m / bc1 / (np.sqrt(v / bc2) + group.eps)
    return u if group.decoupled_weight_decay else u + group.weight_decay * p


def lr_correction(group: LambGroup, t: int) -> float:
    b1, b2 = group.betas
    return math.sqrt(1.0 - b2**t) / (1.0 - b1**t) if group.bias_correction == "lr" else 1.0


def trust_ratio(group: LambGroup, p: Array, u: Array) -> float:
    """phi(‖p‖)/‖u‖, clipped. A ratio of 1 for want of norms or of decay is never clipped."""
    p_norm, u_norm = math.sqrt(float(p @ p)), math.sqrt(float(u @ u))
    adapts = group.always_adapt or group.weight_decay != 0.0
    if not adapts or p_norm == 0.0 or u_norm == 0.0:
        return 1.0
    if group.trust_norm_bounds is not None:
        p_norm = min(max(p_norm, group.trust_norm_bounds[0]), group.trust_norm_bounds[1])
    ratio = p_norm / u_norm
    if group.trust_clip is None:
        return ratio
    clip = group.trust_clip
    low, high = clip if isinstance(clip, tuple) else (0.0, clip)
    return min(max(ratio, low), high)
