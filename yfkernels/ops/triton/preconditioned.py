"""The tuner with a preconditioner on the device: csrc/preconditioned.h line by line, in one launch.

It rounds as the plain one does (tune.py).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.triton.launch import launch as launch_kernel
from yfkernels.ops.triton.launch import scaler_numbers
from yfkernels.ops.triton.layout import at, number, size
from yfkernels.ops.triton.reduce import slot_total
from yfkernels.ops.triton.rules import power
from yfkernels.ops.triton.single_step import single_step
from yfkernels.ops.triton.statistics import (
    ALONE,
    clip_of_update,
    clipped,
    distance_over_gradients,
    end_of_range,
    ends_of_window,
    in_range,
    learn,
    load_averages,
    load_gradient,
    load_numbers,
    load_recent,
    load_window,
    numbers_of,
    skip,
    store_averages,
    store_curvature,
    store_recent,
)

_VARY = ["num_slots", "partials", "grad_scale", "found_inf", "state"]


@triton.jit(do_not_specialize=[*_VARY, "num_groups", "groups", "coefficients"])
def preconditioned_tune(
    numbers,
    num_slots,
    partials,
    grad_scale,
    found_inf,
    state,
    num_groups,
    groups,
    coefficients,
    WINDOW: tl.constexpr,
    WINDOW_TILE: tl.constexpr,
    ADAPTIVE_CLIP: tl.constexpr,
    LOG_SMOOTH: tl.constexpr,
):
    """One program. numbers: of numbers_of(). Others: as in ops/__init__.py."""
    beta, max_norm, _, initial_momentum = load_numbers(numbers)
    step = tl.load(state + at("state.step"))
    skipped = tl.load(state + at("state.skipped"))
    beta_power = tl.load(state + at("state.beta_power"))
    averages = load_averages(state)
    unread_growth = tl.load(state + at("state.unread_growth"))
    growth = tl.load(state + at("state.growth"))
    radius = tl.load(state + at("state.radius"))
    grad_sq_sum = tl.load(state + at("state.grad_sq_sum"))
    recent = load_recent(state)
    unread_metric_sq = tl.load(state + at("state.unread_metric_sq"))
    envelope_avg = tl.load(state + at("state.envelope_avg"))
    envelope_sq = tl.load(state + at("state.envelope"))
    mean_sq_avg = tl.load(state + at("state.mean_sq_avg"))
    scale = tl.load(state + at("state.scale"))
    window = state + size("state")
    norm_window = window + WINDOW
    values = load_window(window, WINDOW, WINDOW_TILE)
    norms = load_window(norm_window, WINDOW, WINDOW_TILE)
    count = slot_total(partials, num_slots, "slot.count")
    start_sq = slot_total(partials, num_slots, "slot.start_sq")
    grad_sq, inv_scale, finite, active = load_gradient(
        partials, num_slots, grad_scale, found_inf, True
    )
    tl.debug_barrier()

    if not active:
        skip(finite, skipped, state, num_groups, coefficients)
        return

    gain = 1.0 - beta
    e = tl.full([], number("TINY"), tl.float64)
    k = step.to(tl.int64)

    # 1. the clips
    norm, clip, norm_sq = clipped(grad_sq, max_norm, envelope_sq, k, e, ADAPTIVE_CLIP)
    update_clip, recent = clip_of_update(norm_sq, envelope_sq, recent, k, e, ADAPTIVE_CLIP, True)
    store_recent(state, recent)

    # 4. what the step before has left: h = t² <d, u>, and how far it has come, in the metric
    least = tl.maximum(initial_momentum, number("LEAST_MOMENTUM"))
    momentum = least
    if k >= 1:
        h = scale * scale * unread_metric_sq
        radius = tl.where(k == 1, radius * tl.sqrt(h), radius)
        growth += unread_growth
        radius = tl.maximum(radius, tl.sqrt(tl.abs(growth)))
        grad_sq_sum += h
        debias = 1.0 - beta_power
        averages, curvature = learn(averages, values, h, k - 1, beta, debias, e, WINDOW, LOG_SMOOTH)
        h_min, h_max, variance, distance = curvature
        variance = tl.maximum(variance, e)
        h_min = in_range(h_min, h_max)
        _, tuned = single_step(distance, variance, h_min, h_max, e)
        momentum = tl.where(k >= 2, tl.maximum(tuned, number("LEAST_MOMENTUM")), momentum)

        tl.store(state + at("state.unread_growth"), 0.0)
        tl.store(state + at("state.unread_metric_sq"), 0.0)
        tl.store(state + at("state.growth"), growth)
        tl.store(state + at("state.grad_sq_sum"), grad_sq_sum)
        store_averages(state, averages)
        store_curvature(state, h_min, h_max, variance, distance)
        tl.store(window + (k - 1) % WINDOW, h)

    # 1. the envelope of ‖g‖²
    beta_power = beta_power * beta
    _, high = ends_of_window(norms, k, norm_sq, e, WINDOW, LOG_SMOOTH)
    envelope_avg = beta * envelope_avg + gain * high
    tl.store(state + at("state.beta_power"), beta_power)
    tl.store(norm_window + k % WINDOW, norm_sq)
    tl.store(state + at("state.envelope_avg"), envelope_avg)
    envelope_sq = end_of_range(envelope_avg, 1.0 - beta_power, LOG_SMOOTH)
    tl.store(state + at("state.envelope"), envelope_sq)

    # 2. the scale of the metric
    square_decay = tl.full([], number("SQUARE_DECAY"), tl.float64)
    fresh = 1.0 - square_decay
    mean_sq_avg = square_decay * mean_sq_avg + fresh * (norm_sq / count)
    scale = tl.sqrt(mean_sq_avg / (1.0 - power(square_decay, step + 1.0)))
    tl.store(state + at("state.mean_sq_avg"), mean_sq_avg)
    tl.store(state + at("state.scale"), scale)

    # 5. the step along u. In the first one the sum of h cancels
    rest = 1.0 - momentum
    start = (
        tl.full([], number("FIRST_TRAVEL"), tl.float64) * (1.0 + tl.sqrt(start_sq)) / tl.sqrt(count)
    )
    lr = scale * distance_over_gradients(momentum, radius, grad_sq_sum)
    lr = tl.where(k == 0, rest * start, lr)
    # but for sqrt(h), which the update has yet to sum
    radius = tl.where(k == 0, start / scale, radius)

    tl.store(state + at("state.step"), step + 1.0)
    tl.store(state + at("state.radius"), radius)
    tl.store(state + at("state.momentum"), momentum)
    tl.store(state + at("state.grad_norm"), norm)
    tl.store(state + at("state.clip_coefficient"), clip * update_clip)

    for i in range(num_groups):
        group = groups + i * size("group")
        multiplier = tl.load(group + at("group.lr"))
        decay = tl.load(group + at("group.weight_decay"))
        decoupled = tl.load(group + at("group.decoupled")) != 0.0
        sign = tl.load(group + at("group.sign"))
        group_lr = lr * multiplier
        group_lr = tl.where(decoupled & (group_lr * decay > rest), rest / decay, group_lr)
        tl.store(state + at("state.lr"), group_lr, mask=i == 0)

        out = coefficients + i * size("yellowfin")
        tl.store(out + at("yellowfin.active"), 1.0)
        tl.store(out + at("yellowfin.grad_scale"), sign * clip * inv_scale / scale)
        tl.store(out + at("yellowfin.coupled_decay"), tl.where(decoupled, 0.0, decay / scale))
        stands = multiplier == 0.0
        tl.store(out + at("yellowfin.momentum"), tl.where(stands, 0.0, momentum))
        tl.store(out + at("yellowfin.velocity_gain"), -group_lr)
        tl.store(out + at("yellowfin.velocity_keep"), 1.0)
        # as AdamW: lr / (1 - mu) is the whole travel of one u
        kept = tl.where(decoupled, 1.0 - group_lr * decay / rest, 1.0)
        tl.store(out + at("yellowfin.param_keep"), kept)
        tl.store(out + at("yellowfin.param_gain"), 1.0)
        tl.store(out + at("yellowfin.average_decay"), square_decay)
        tl.store(out + at("yellowfin.average_gain"), fresh)
        tl.store(out + at("yellowfin.update_clip"), update_clip)
        tl.store(out + at("yellowfin.lr"), group_lr)


def launch(
    options: YellowFinOptions,
    partials: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    groups: Tensor,
    coefficients: Tensor,
) -> None:
    """Runs the tuner where `state` lives."""
    scaler = scaler_numbers(state.device, grad_scale, found_inf)
    measured = (numbers_of(options, state.device), len(partials), partials)
    launch_kernel(
        preconditioned_tune,
        1,
        state.device,
        "tuning",
        (*measured, *scaler, state, len(groups), groups, coefficients),
        WINDOW=options.window,
        WINDOW_TILE=triton.next_power_of_2(options.window),
        ADAPTIVE_CLIP=options.adaptive_clip,
        LOG_SMOOTH=options.log_smooth,
        **ALONE,
    )
