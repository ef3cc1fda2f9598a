"""The tuner with a preconditioner in tensor operations: csrc/preconditioned.h line by line."""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import FIRST_TRAVEL, LEAST_MOMENTUM, SQUARE_DECAY
from yfkernels.ops.torch.single_step import single_step
from yfkernels.ops.torch.statistics import Curvature, TuningStep, in_range


def _digest(step: TuningStep) -> tuple[Tensor, Curvature]:
    """4. h = t² <d, u> of the step before into the statistics; how far it has come there."""
    old, new, k = step.old, step.new, step.k
    h = old["scale"] * old["scale"] * old["unread_metric_sq"]
    new["radius"] = torch.where(k == 1, old["radius"] * h.sqrt(), old["radius"])
    step.travel(old["unread_growth"])
    new["unread_metric_sq"] = new["unread_growth"] = torch.zeros_like(h)
    new["grad_sq_sum"] = old["grad_sq_sum"] + h
    window, c = step.learn(h, k - 1.0, 1.0 - old["beta_power"])
    return window, c._replace(variance=c.variance.clamp(min=step.e), h_min=in_range(c[0], c[1]))


def tune_preconditioned(
    step: TuningStep, sums: dict[str, Tensor], state: Tensor, coefficients: Tensor
) -> None:
    """One tuner step in Adam's metric."""
    options, old, new, k = step.options, step.old, step.new, step.k

    # 4. what the step before has left; before the first there is nothing
    window, c = _digest(step)
    new |= c._asdict()
    new |= {name: torch.where(k >= 1, value, old[name]) for name, value in new.items()}
    window = torch.where(k >= 1, window, step.window())
    _, tuned = single_step(c.distance, c.variance, c.h_min, c.h_max, step.e)
    least = max(options.initial_momentum, LEAST_MOMENTUM)
    momentum = torch.where(k >= 2, tuned.clamp(min=LEAST_MOMENTUM), least)

    # 1. the clips
    envelope_sq = old["envelope"]
    g = step.clipped(envelope_sq)
    update_clip = step.clip_of_update(g, envelope_sq)

    # 1. the envelope of ‖g‖²
    new["beta_power"] = old["beta_power"] * options.beta
    raw_window, _, high = step.ends_of_window(step.window(1), k, g.norm_sq)
    envelope_avg = step.average("envelope_avg", high)
    new["envelope"] = step.end_of_range(envelope_avg, 1.0 - new["beta_power"])

    # 2. the scale of the metric
    fresh = 1.0 - SQUARE_DECAY
    mean_sq = g.norm_sq / sums["count"]
    new["mean_sq_avg"] = SQUARE_DECAY * old["mean_sq_avg"] + fresh * mean_sq
    scale = (new["mean_sq_avg"] / (1.0 - SQUARE_DECAY ** (k + 1.0))).sqrt()
    new["scale"] = scale

    # 5. the step along u. In the first one the sum of h cancels
    start = FIRST_TRAVEL * (1.0 + sums["start_sq"].sqrt()) / sums["count"].sqrt()
    lr = scale * step.distance_over_gradients(momentum)
    lr = torch.where(k == 0, (1.0 - momentum) * start, lr)
    # but for sqrt(h), which the update has yet to sum
    new["radius"] = torch.where(k == 0, start / scale, new["radius"])

    group, rest = step.group, 1.0 - momentum
    decoupled, decay = group["decoupled"] != 0.0, group["weight_decay"]
    lrs = lr * group["lr"]
    lrs = torch.where(decoupled & (lrs * decay > rest), rest / decay, lrs)
    new |= {
        "step": k + 1.0,
        "lr": lrs[0],
        "momentum": momentum,
        "grad_norm": g.norm,
        "clip_coefficient": g.clip * update_clip,
    }
    ones = torch.ones_like(lrs)
    out = {
        "active": ones,
        "grad_scale": group["sign"] * g.clip * step.inv_scale / scale,
        "coupled_decay": torch.where(decoupled, 0.0, decay / scale),
        "momentum": torch.where(group["lr"] == 0.0, 0.0, momentum),  # stands still
        "velocity_gain": -lrs,
        "velocity_keep": ones,
        # as AdamW: lr / (1 - mu) is the whole travel of one u
        "param_keep": torch.where(decoupled, 1.0 - lrs * decay / rest, ones),
        "param_gain": ones,
        "average_decay": ones * SQUARE_DECAY,
        "average_gain": ones * fresh,
        "update_clip": ones * update_clip,
        "lr": lrs,
    }
    step.write([window, raw_window], out, state, coefficients)
