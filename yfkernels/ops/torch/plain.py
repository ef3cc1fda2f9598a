"""The tuner with one step size in tensor operations: csrc/tuner/plain.h step by step.

The published algorithm, and the robust mode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import EPSILON, FIRST_RADIUS, LARGEST_MOVE, TILE
from yfkernels.ops.torch.single_step import single_step
from yfkernels.ops.torch.statistics import (
    Clipped,
    Curvature,
    TuningStep,
    limit_by_decay,
    limited_h_min,
)


def next_average_sq(beta: float, average_gain: Tensor, sums: dict[str, Tensor]) -> Tensor:
    """‖ḡ‖² after this step, from the sums of one reading pass, which knows no clip yet."""
    return (
        beta * beta * sums["avg_sq"]
        + 2.0 * beta * average_gain * sums["avg_dot_grad"]
        + average_gain * average_gain * sums["avg_grad_sq"]
    )


def debias_sparsity(
    step: TuningStep, sums: dict[str, Tensor], debias: Tensor, c: Curvature
) -> Curvature:
    """Statistics of gradients that are mostly zero, by the average share that is not."""
    count = sums["count"]
    share = torch.where(count > 0, sums["nonzero"] / count.clamp(min=1.0), 0.0)
    share = step.average("sparsity_avg", share) / debias
    distance = c.distance / (share.sqrt() + step.e)
    return Curvature(c.h_min * share, c.h_max * share, c.variance * share, distance)


def choose_step(step: TuningStep, c: Curvature) -> tuple[Tensor, Tensor]:
    """(lr, momentum): SingleStep's, whose step size starts slowly, over ten windows."""
    options, k = step.options, step.k
    lr, momentum = single_step(c.distance, c.variance, c.h_min, c.h_max, step.e)
    lr = lr * ((k + 1.0) / (10 * options.window)).clamp(max=1.0)
    lr = torch.where(k >= 1, lr, options.initial_lr)
    return lr, torch.where(k >= 1, momentum, options.initial_momentum)


def robust_lr(step: TuningStep, momentum: Tensor, grad_sq: Tensor, start_sq: Tensor) -> Tensor:
    """The robust mode's step size. grad_sq: of the gradient as the update uses it."""
    first = FIRST_RADIUS * (1.0 + start_sq.sqrt())
    step.new["radius"] = torch.where(step.k == 0, first, step.old["radius"])
    step.advance_radius(step.old["unread_growth"])
    step.new["grad_sq_sum"] = step.old["grad_sq_sum"] + grad_sq
    return step.distance_over_gradients(momentum)


def cap_move(lr: Tensor, g: Clipped) -> Tensor:
    """A step may not move by more than a hundred."""
    cap = LARGEST_MOVE / (g.norm_sq + EPSILON).sqrt()
    return torch.where(lr * g.root >= LARGEST_MOVE, cap, lr)


def tune_plain(
    step: TuningStep,
    sums: dict[str, Tensor],
    sketches: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """One tuner step, and what each group makes of it."""
    options, old, new, k, e = step.options, step.old, step.new, step.k, step.e
    beta, gain = options.beta, 1.0 - options.beta
    envelope_sq = old["h_max"]

    # the sketch plays the part of the gradient, its average that of ḡ
    average, sketch = state[-TILE:], None
    sums = sums | {"avg_grad_sq": sums["grad_sq"]}
    if sketches is not None:
        sketch = sketches.sum(0, dtype=torch.float64)
        sums["avg_dot_grad"] = (average * sketch).sum()
        sums["avg_sq"] = (average * average).sum()
        sums["avg_grad_sq"] = (sketch * sketch).sum()

    g = step.clip_gradient(envelope_sq)
    h = g.norm_sq
    new["beta_power"] = old["beta_power"] * beta
    debias = 1.0 - new["beta_power"]
    window, c = step.learn(h, k, debias)

    # the robust mode takes all of ‖g‖² for variance and keeps no average
    average_gain = gain * g.clip * step.inv_scale
    variance = c.variance
    if not options.robust:
        variance = variance - next_average_sq(beta, average_gain, sums) / (debias * debias)
    c = c._replace(variance=variance.clamp(min=e))
    if options.sparsity_debias:
        c = debias_sparsity(step, sums, debias, c)
    if options.robust:
        c = c._replace(h_min=limited_h_min(c.h_min, c.h_max))

    lr, momentum = choose_step(step, c)
    update_clip = step.clip_update(g, envelope_sq)
    if options.robust:
        lr = robust_lr(step, momentum, update_clip * update_clip * h, sums["start_sq"])
    total_clip = g.clip * update_clip

    group = step.group
    lrs = lr * group["lr"]
    if options.adaptive_clip:
        lrs = cap_move(lrs, g)
    if options.robust:
        lrs = limit_by_decay(lrs, group["weight_decay"], momentum)

    new |= c._asdict()
    step.show(g, update_clip, momentum, lrs)
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
        "shortfall": torch.zeros_like(ones),
        "unit": torch.zeros_like(ones),
        "unit_change": torch.zeros_like(ones),
        "lr": lrs,
    }
    rest_of_state = [window] if sketch is None else [window, beta * average + average_gain * sketch]
    step.write(rest_of_state, out, state, coefficients)
