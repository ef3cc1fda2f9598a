"""The YellowFin tuner in tensor operations: csrc/tuner.h line by line, on any device.

Every scalar is a float64 tensor on the device of the state, so nothing here synchronises.
Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import EPSILON, FIRST_RADIUS, LARGEST_MOVE, SUMS, TILE
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.torch.preconditioned import tune_preconditioned
from yfkernels.ops.torch.single_step import single_step
from yfkernels.ops.torch.statistics import TuningStep, in_range


def tune_yellowfin(
    options: YellowFinOptions,
    partials: Tensor,
    sketches: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    groups: Tensor,
    coefficients: Tensor,
) -> None:
    """Adds up the slots and runs the tuner where `state` lives."""
    sums = dict(zip(SUMS, partials.sum(0).unbind()))
    step = TuningStep(options, sums["grad_sq"], grad_scale, found_inf, state, groups)
    if options.preconditioned:
        tune_preconditioned(step, sums, state, coefficients)
    else:
        _tune_plain(step, sums, sketches, state, coefficients)


def _tune_plain(
    step: TuningStep,
    sums: dict[str, Tensor],
    sketches: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """One tuner step of the published and the robust mode."""
    options, old, new, k, e = step.options, step.old, step.new, step.k, step.e
    beta, gain = options.beta, 1.0 - options.beta

    # 1-4, 6
    envelope_sq = old["h_max"]
    g = step.clipped(envelope_sq)
    h = g.norm_sq
    new["beta_power"] = old["beta_power"] * beta
    debias = 1.0 - new["beta_power"]
    window, (h_min, h_max, variance, distance) = step.learn(h, k, debias)

    # 5. variance: in the robust mode all of ‖g‖², and no average is kept
    average_gain = gain * g.clip * step.inv_scale
    average, sketch = state[-TILE:], None
    dot, avg_sq, avg_grad_sq = sums["avg_dot_grad"], sums["avg_sq"], sums["grad_sq"]
    if sketches is not None:
        sketch = sketches.sum(0, dtype=torch.float64)
        dot, avg_sq = (average * sketch).sum(), (average * average).sum()
        avg_grad_sq = (sketch * sketch).sum()
    if not options.robust:
        new_avg_sq = (
            beta * beta * avg_sq
            + 2.0 * beta * average_gain * dot
            + average_gain * average_gain * avg_grad_sq
        )
        variance = variance - new_avg_sq / (debias * debias)
    variance = variance.clamp(min=e)

    if options.sparsity_debias:
        count = sums["count"]
        share = torch.where(count > 0, sums["nonzero"] / count.clamp(min=1.0), 0.0)
        share = step.average("sparsity_avg", share) / debias
        h_min, h_max, variance = h_min * share, h_max * share, variance * share
        distance = distance / (share.sqrt() + e)
    if options.robust:
        h_min = in_range(h_min, h_max)

    # 7. SingleStep, with a slow start over ten windows
    lr, momentum = single_step(distance, variance, h_min, h_max, e)
    lr = lr * ((k + 1.0) / (10 * options.window)).clamp(max=1.0)
    lr = torch.where(k >= 1, lr, options.initial_lr)
    momentum = torch.where(k >= 1, momentum, options.initial_momentum)

    # 9
    update_clip = step.clip_of_update(g, envelope_sq)
    if options.robust:
        first = FIRST_RADIUS * (1.0 + sums["start_sq"].sqrt())
        new["radius"] = torch.where(k == 0, first, old["radius"])
        step.travel(old["unread_growth"])
        new["unread_growth"] = torch.zeros_like(h)
        new["grad_sq_sum"] = old["grad_sq_sum"] + update_clip * update_clip * h
        lr = step.distance_over_gradients(momentum)
    total_clip = g.clip * update_clip

    # 8. the user's multiplier, and a cap on the move of one step
    group = step.group
    lrs = lr * group["lr"]
    if options.adaptive_clip:
        cap = LARGEST_MOVE / (h + EPSILON).sqrt()
        lrs = torch.where(lrs * g.root >= LARGEST_MOVE, cap, lrs)
    if options.robust:
        # the statistics do not see weight decay: of a small loss lr would be too much for it
        decay, rest = group["weight_decay"], 1.0 - momentum
        lrs = torch.where(lrs * decay > rest, rest / decay, lrs)

    new |= {
        "step": k + 1.0,
        "h_min": h_min,
        "h_max": h_max,
        "variance": variance,
        "distance": distance,
        "lr": lrs[0],
        "momentum": momentum,
        "grad_norm": g.norm,
        "clip_coefficient": total_clip,
    }
    ones = torch.ones_like(lrs)
    decoupled = group["decoupled"] != 0.0
    keeps = torch.where(momentum != 0.0, ones, 0.0)
    out = {
        "active": ones,
        "grad_scale": group["sign"] * total_clip * step.inv_scale,
        "coupled_decay": torch.where(decoupled, 0.0, group["weight_decay"]),
        # a group whose lr was set to 0 stands still; Polyak's velocity alone would carry it on
        "momentum": momentum * ((group["lr"] != 0.0) if options.polyak else ones),
        "velocity_gain": -lrs if options.polyak else ones,
        "velocity_keep": ones if options.polyak or options.trust_ratio else keeps,
        "param_keep": torch.where(decoupled, 1.0 - lrs * group["weight_decay"], ones),
        "param_gain": ones if options.polyak else -lrs,
        "average_decay": ones * beta,
        "average_gain": ones * average_gain,
        "update_clip": ones,
        "lr": lrs,
    }
    rest_of_state = [window] if sketch is None else [window, beta * average + average_gain * sketch]
    step.write(rest_of_state, out, state, coefficients)
