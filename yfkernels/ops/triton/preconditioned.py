"""The tuner with a preconditioner on the device: csrc/tuner/preconditioned.h step by step.

It is one launch, and rounds as the plain one does (tune.py).
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
    advance_radius,
    clip_gradient,
    clip_update,
    distance_over_gradients,
    end_of_range,
    ends_of_window,
    learn,
    limit_by_decay,
    limited_h_min,
    load_averages,
    load_gradient,
    load_numbers,
    load_radius,
    load_recent,
    load_window,
    numbers_of,
    skip,
    store_averages,
    store_curvature,
    store_recent,
    store_step,
)


@triton.jit
def learn_from_update(
    averages,
    values,
    unread_metric_sq,
    traveled,
    grad_sq_sum,
    scale,
    metric_scale,
    walked,
    k,
    beta,
    debias,
    e,
    WINDOW: tl.constexpr,
    LOG_SMOOTH: tl.constexpr,
):
    """(h, averages, curvature, growth, walk, radius, grad_sq_sum) after the last update's sums.

    h = t² <d, u> goes into the statistics, and how far the parameters have come. Both in the metric
    over its root mean square. values: of the first window; traveled: of load_radius(); walked: the
    walk before, and what each <d, u> adds.
    """
    h = metric_scale * (scale * scale * unread_metric_sq)
    unread_growth, growth, radius = traveled
    walk, unread_walk = walked
    walk += unread_walk * unread_metric_sq / metric_scale
    # the part of the first one that was not known before
    radius = tl.where(k == 1, radius * tl.sqrt(h), radius)
    growth += unread_growth / metric_scale
    walk, radius = advance_radius(growth, walk, radius)
    grad_sq_sum += h
    averages, curvature = learn(averages, values, h, k - 1, beta, debias, e, WINDOW, LOG_SMOOTH)
    h_min, h_max, variance, distance = curvature
    curvature = (limited_h_min(h_min, h_max), h_max, tl.maximum(variance, e), distance)
    return h, averages, curvature, growth, walk, radius, grad_sq_sum


@triton.jit
def choose_momentum(curvature, least, k, e):
    """SingleStep's momentum, at least a half. There is no curvature to go by before k = 2."""
    h_min, h_max, variance, distance = curvature
    _, tuned = single_step(distance, variance, h_min, h_max, e)
    return tl.where(k >= 2, tl.maximum(tuned, number("LEAST_MOMENTUM")), least)


@triton.jit
def advance_envelope(
    window,
    envelope_avg,
    norm_sq,
    k,
    beta,
    debias,
    e,
    WINDOW: tl.constexpr,
    LOG_SMOOTH: tl.constexpr,
):
    """(average, envelope): the upper end of the window of ‖g‖², which the clips are told from."""
    _, high = ends_of_window(window, k, norm_sq, e, WINDOW, LOG_SMOOTH)
    envelope_avg = beta * envelope_avg + (1.0 - beta) * high
    return envelope_avg, end_of_range(envelope_avg, debias, LOG_SMOOTH)


@triton.jit
def advance_scale(average, value, step, square_decay):
    """(average, root): of the squares of the gradient, or of the metric, and its debiased root."""
    average = square_decay * average + (1.0 - square_decay) * value
    return average, tl.sqrt(average / (1.0 - power(square_decay, step + 1.0)))


@triton.jit
def step_along_u(momentum, radius, grad_sq_sum, scale, metric_scale, start_sq, count, k):
    """(lr, radius): lr along u, but for the stretch. At first the sum of h would cancel."""
    travel = tl.full([], number("FIRST_TRAVEL"), tl.float64)
    start = travel * (1.0 + tl.sqrt(start_sq)) / tl.sqrt(count)
    lr = metric_scale * scale * distance_over_gradients(momentum, radius, grad_sq_sum)
    lr = tl.where(k == 0, (1.0 - momentum) * start, lr)
    # but for sqrt(h), which the update has yet to sum
    return lr, tl.where(k == 0, start / scale, radius)


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
    """One program. numbers: of numbers_of(). Others: as in ops/backend.py."""
    beta, max_norm, _, initial_momentum = load_numbers(numbers)
    step = tl.load(state + at("state.step"))
    skipped = tl.load(state + at("state.skipped"))
    beta_power = tl.load(state + at("state.beta_power"))
    averages = load_averages(state)
    traveled = load_radius(state)
    grad_sq_sum = tl.load(state + at("state.grad_sq_sum"))
    recent = load_recent(state)
    unread_metric_sq = tl.load(state + at("state.unread_metric_sq"))
    envelope_avg = tl.load(state + at("state.envelope_avg"))
    envelope_sq = tl.load(state + at("state.envelope"))
    mean_sq_avg = tl.load(state + at("state.mean_sq_avg"))
    scale = tl.load(state + at("state.scale"))
    relative_sq_avg = tl.load(state + at("state.relative_sq_avg"))
    metric_scale = tl.load(state + at("state.metric_scale"))
    last_unit = tl.load(state + at("state.unit"))
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

    e = tl.full([], number("TINY"), tl.float64)
    k = step.to(tl.int64)

    norm, clip, norm_sq = clip_gradient(grad_sq, max_norm, envelope_sq, k, e, ADAPTIVE_CLIP)
    update_clip, recent = clip_update(norm_sq, envelope_sq, recent, k, e, ADAPTIVE_CLIP, True)
    store_recent(state, recent)

    momentum = tl.maximum(initial_momentum, number("LEAST_MOMENTUM"))
    _, growth, radius = traveled
    if k >= 1:
        walked = tl.load(state + at("state.walk")), tl.load(state + at("state.unread_walk"))
        h, averages, curvature, growth, walk, radius, grad_sq_sum = learn_from_update(
            averages,
            values,
            unread_metric_sq,
            traveled,
            grad_sq_sum,
            scale,
            metric_scale,
            walked,
            k,
            beta,
            1.0 - beta_power,
            e,
            WINDOW,
            LOG_SMOOTH,
        )
        momentum = choose_momentum(curvature, momentum, k, e)

        tl.store(state + at("state.unread_growth"), 0.0)
        tl.store(state + at("state.unread_metric_sq"), 0.0)
        tl.store(state + at("state.growth"), growth)
        tl.store(state + at("state.walk"), walk)
        tl.store(state + at("state.grad_sq_sum"), grad_sq_sum)
        store_averages(state, averages)
        store_curvature(state, curvature)
        tl.store(window + (k - 1) % WINDOW, h)

    beta_power = beta_power * beta
    envelope_avg, envelope_sq = advance_envelope(
        norms, envelope_avg, norm_sq, k, beta, 1.0 - beta_power, e, WINDOW, LOG_SMOOTH
    )
    tl.store(state + at("state.beta_power"), beta_power)
    tl.store(norm_window + k % WINDOW, norm_sq)
    tl.store(state + at("state.envelope_avg"), envelope_avg)
    tl.store(state + at("state.envelope"), envelope_sq)

    square_decay = tl.full([], number("SQUARE_DECAY"), tl.float64)
    mean_sq = norm_sq / count
    mean_sq_avg, scale = advance_scale(mean_sq_avg, mean_sq, step, square_decay)
    relative_sq = mean_sq / (scale * scale)
    relative_sq_avg, metric_scale = advance_scale(relative_sq_avg, relative_sq, step, square_decay)
    tl.store(state + at("state.mean_sq_avg"), mean_sq_avg)
    tl.store(state + at("state.scale"), scale)
    tl.store(state + at("state.relative_sq_avg"), relative_sq_avg)
    tl.store(state + at("state.metric_scale"), metric_scale)

    lr, radius = step_along_u(
        momentum, radius, grad_sq_sum, scale, metric_scale, start_sq, count, k
    )
    tl.store(state + at("state.radius"), radius)
    store_step(state, step, norm, clip, update_clip, momentum)

    travel = update_clip * lr / (1.0 - momentum)
    stretch = tl.full([], number("STRETCH"), tl.float64)
    lr = stretch * lr
    longest = tl.full([], 1.0, tl.float64)
    for i in range(num_groups):
        longest = tl.maximum(longest, tl.load(groups + i * size("group") + at("group.lr")))
    stretch_sq = (stretch * longest) * (stretch * longest)
    tl.store(state + at("state.unread_walk"), (stretch_sq - 1.0) * (travel * travel))
    longest_sq = stretch_sq * (travel * travel)
    whole = lr * longest / (1.0 - momentum) * number("UNIT")
    unit = tl.maximum(tl.maximum(whole * update_clip, tl.minimum(whole, last_unit)), e)
    tl.store(state + at("state.unit"), unit)
    for i in range(num_groups):
        group = groups + i * size("group")
        multiplier = tl.load(group + at("group.lr"))
        decay = tl.load(group + at("group.weight_decay"))
        decoupled = tl.load(group + at("group.decoupled")) != 0.0
        sign = tl.load(group + at("group.sign"))
        group_lr = lr * multiplier
        group_lr = tl.where(decoupled, limit_by_decay(group_lr, decay, momentum), group_lr)
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
        kept = tl.where(decoupled, 1.0 - group_lr * decay / (1.0 - momentum), 1.0)
        tl.store(out + at("yellowfin.param_keep"), kept)
        tl.store(out + at("yellowfin.param_gain"), 1.0)
        tl.store(out + at("yellowfin.average_decay"), square_decay)
        tl.store(out + at("yellowfin.average_gain"), 1.0 - square_decay)
        tl.store(out + at("yellowfin.update_clip"), update_clip)
        # the growth is to be that of groups which all take the longest steps
        share = tl.where(lr > 0.0, group_lr / (lr * longest), 1.0)
        tl.store(out + at("yellowfin.shortfall"), longest_sq * (1.0 - share * share))
        tl.store(out + at("yellowfin.unit"), unit)
        tl.store(out + at("yellowfin.unit_change"), last_unit / unit)
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
