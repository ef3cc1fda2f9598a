"""The tuner with a preconditioner in tensor operations: as in csrc/tuner, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import (
    FIRST_TRAVEL,
    LEAST_MOMENTUM,
    SQUARE_DECAY,
    STRETCH,
    TINY,
    UNIT,
)
from yfkernels.ops.torch.single_step import single_step
from yfkernels.ops.torch.statistics import (
    Clipped,
    Curvature,
    TuningStep,
    limit_by_decay,
    limited_h_min,
)


def learn_from_update(step: TuningStep) -> tuple[Tensor, Curvature]:
    """(first window, what SingleStep wants) after the sums of the last update.

    h = t² <d, u> goes into the statistics, and how far the parameters have come. Both in the metric
    over its root mean square.
    """
    old, new, k = step.old, step.new, step.k
    size = old["metric_scale"]
    h = size * (old["scale"] * old["scale"] * old["unread_metric_sq"])
    new["unread_metric_sq"] = torch.zeros_like(h)
    # the part of the first one that was not known before
    new["radius"] = torch.where(k == 1, old["radius"] * h.sqrt(), old["radius"])
    walk = old["unread_walk"] * old["unread_metric_sq"] / size
    step.advance_radius(old["unread_growth"] / size, walk)
    new["grad_sq_sum"] = old["grad_sq_sum"] + h
    window, c = step.learn(h, k - 1.0, 1.0 - old["beta_power"])
    variance, h_min = c.variance.clamp(min=step.e), limited_h_min(c.h_min, c.h_max)
    return window, c._replace(variance=variance, h_min=h_min)


def choose_momentum(step: TuningStep) -> tuple[Tensor, Tensor]:
    """(first window, momentum): SingleStep's, at least a half.

    Before the first step there are no sums of an update, and there is no curvature to go by before
    k = 2.
    """
    k, before = step.k, dict(step.new)
    window, c = learn_from_update(step)
    step.new |= c._asdict()
    step.new |= {name: torch.where(k >= 1, x, before[name]) for name, x in step.new.items()}
    _, tuned = single_step(c.distance, c.variance, c.h_min, c.h_max, step.e)
    least = max(step.options.initial_momentum, LEAST_MOMENTUM)
    momentum = torch.where(k >= 2, tuned.clamp(min=LEAST_MOMENTUM), least)
    return torch.where(k >= 1, window, step.window()), momentum


def advance_envelope(step: TuningStep, g: Clipped) -> Tensor:
    """The second window; its upper end is what the clips of the next step are told from."""
    step.new["beta_power"] = step.old["beta_power"] * step.options.beta
    window, _, high = step.ends_of_window(step.window(1), step.k, g.norm_sq)
    envelope_avg = step.average("envelope_avg", high)
    step.new["envelope"] = step.end_of_range(envelope_avg, 1.0 - step.new["beta_power"])
    return window


def advance_scales(step: TuningStep, g: Clipped, count: Tensor) -> Tensor:
    """t, the root mean square of the gradient; also that of the metric in the coming update."""
    fresh, debias = 1.0 - SQUARE_DECAY, 1.0 - SQUARE_DECAY ** (step.k + 1.0)
    mean_sq = g.norm_sq / count
    mean_sq_avg = SQUARE_DECAY * step.old["mean_sq_avg"] + fresh * mean_sq
    scale = (mean_sq_avg / debias).sqrt()
    relative_sq_avg = SQUARE_DECAY * step.old["relative_sq_avg"] + fresh * (
        mean_sq / (scale * scale)
    )
    step.new |= {"mean_sq_avg": mean_sq_avg, "scale": scale, "relative_sq_avg": relative_sq_avg}
    step.new["metric_scale"] = (relative_sq_avg / debias).sqrt()
    return scale


def step_along_u(
    step: TuningStep, momentum: Tensor, scale: Tensor, sums: dict[str, Tensor]
) -> Tensor:
    """lr along u, but for what makes it longer. In the first step the sum of h would cancel."""
    start = FIRST_TRAVEL * (1.0 + sums["start_sq"].sqrt()) / sums["count"].sqrt()
    lr = step.new["metric_scale"] * scale * step.distance_over_gradients(momentum)
    # but for sqrt(h), which the update has yet to sum
    step.new["radius"] = torch.where(step.k == 0, start / scale, step.new["radius"])
    return torch.where(step.k == 0, (1.0 - momentum) * start, lr)


def tune_preconditioned(
    step: TuningStep, sums: dict[str, Tensor], state: Tensor, coefficients: Tensor
) -> None:
    """One tuner step in Adam's metric, and what each group makes of it."""
    envelope_sq = step.old["envelope"]
    g = step.clip_gradient(envelope_sq)
    update_clip = step.clip_update(g, envelope_sq)
    window, momentum = choose_momentum(step)
    grad_window = advance_envelope(step, g)
    scale = advance_scales(step, g, sums["count"])
    lr = step_along_u(step, momentum, scale, sums)

    group, rest = step.group, 1.0 - momentum
    longest = group["lr"].max().clamp(min=1.0)
    travel, stretch = update_clip * lr / rest, STRETCH * longest
    step.new["unread_walk"] = (stretch * stretch - 1.0) * (travel * travel)
    lr = STRETCH * lr
    whole = lr * longest / rest * UNIT
    unit = torch.maximum(whole * update_clip, torch.minimum(whole, step.old["unit"]))
    unit = step.new["unit"] = unit.clamp(min=TINY)
    decoupled, decay = group["decoupled"] != 0.0, group["weight_decay"]
    lrs = lr * group["lr"]
    lrs = torch.where(decoupled, limit_by_decay(lrs, decay, momentum), lrs)
    step.show(g, update_clip, momentum, lrs)
    ones = torch.ones_like(lrs)
    share = torch.where(lr > 0.0, lrs / (lr * longest), 1.0)  # of the longest step
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
        "average_gain": ones * (1.0 - SQUARE_DECAY),
        "update_clip": ones * update_clip,
        # the growth is to be that of groups which all take the longest steps
        "shortfall": stretch * stretch * (travel * travel) * (1.0 - share * share),
        "unit": ones * unit,
        "unit_change": ones * (step.old["unit"] / unit),
        "lr": lrs,
    }
    step.write([window, grad_window], out, state, coefficients)
