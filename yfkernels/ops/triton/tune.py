"""The tuner with one step size on the device: csrc/tuner/plain.h step by step, in one launch.

The published algorithm, and the robust mode. Launched with `enable_fp_fusion=False`, so that
products and sums round as they do on the host. Two things differ from the host in the last bits: ln
and exp, and the order in which slots and buckets are added up, which is fixed too but is that of a
tree.
Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.constants import TILE
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.triton.launch import launch as launch_kernel
from yfkernels.ops.triton.launch import scaler_numbers
from yfkernels.ops.triton.layout import at, number, size
from yfkernels.ops.triton.reduce import is_last, slot_total
from yfkernels.ops.triton.single_step import single_step
from yfkernels.ops.triton.statistics import (
    ALONE,
    advance_radius,
    clip_gradient,
    clip_update,
    distance_over_gradients,
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

_SHARE = 256  # buckets of the sketch that one program folds


@triton.jit
def _fold_sketches(sketches, num_slots, folded, TILE: tl.constexpr, SHARE: tl.constexpr):
    """This program's share of the buckets, summed over all slots in float64."""
    slots = tl.arange(0, 16)[:, None]
    buckets = tl.program_id(0) * SHARE + tl.arange(0, SHARE)[None, :]
    total = tl.full([16, SHARE], 0.0, tl.float64)
    for first in range(0, num_slots, 16):
        slot = first + slots
        value = tl.load(sketches + slot * TILE + buckets, mask=slot < num_slots, other=0.0)
        total += value.to(tl.float64)
    tl.store(folded + tl.program_id(0) * SHARE + tl.arange(0, SHARE), tl.sum(total, axis=0))


@triton.jit
def next_average_sq(beta, average_gain, avg_dot_grad, avg_sq, avg_grad_sq):
    """‖ḡ‖² after this step, from the sums of one reading pass, which knows no clip yet."""
    return (
        beta * beta * avg_sq
        + 2.0 * beta * average_gain * avg_dot_grad
        + average_gain * average_gain * avg_grad_sq
    )


@triton.jit
def debias_sparsity(partials, num_slots, sparsity_avg, beta, debias, e, curvature):
    """(sparsity_avg, curvature) of gradients that are mostly zero, by the share that is not."""
    h_min, h_max, variance, distance = curvature
    nonzero = slot_total(partials, num_slots, "slot.nonzero")
    count = slot_total(partials, num_slots, "slot.count")
    share = tl.where(count > 0.0, nonzero / tl.maximum(count, 1.0), 0.0)
    sparsity_avg = beta * sparsity_avg + (1.0 - beta) * share
    share = sparsity_avg / debias
    distance = distance / (tl.sqrt(share) + e)
    return sparsity_avg, (h_min * share, h_max * share, variance * share, distance)


@triton.jit
def choose_step(curvature, initial_lr, initial_momentum, step, k, e, WINDOW: tl.constexpr):
    """(lr, momentum): SingleStep's, whose step size starts slowly, over ten windows."""
    h_min, h_max, variance, distance = curvature
    lr, momentum = single_step(distance, variance, h_min, h_max, e)
    slow_start = (step + 1.0) / (10.0 * WINDOW)
    lr = tl.where(k >= 1, lr * tl.minimum(slow_start, 1.0), initial_lr)
    return lr, tl.where(k >= 1, momentum, initial_momentum)


@triton.jit
def robust_lr(momentum, grad_sq, start_sq, k, traveled, grad_sq_sum):
    """(lr, growth, radius, grad_sq_sum): the robust mode's step size.

    grad_sq: of the gradient as the update uses it. traveled: of load_radius().
    """
    unread_growth, growth, radius = traveled
    growth += unread_growth
    first = tl.full([], number("FIRST_RADIUS"), tl.float64) * (1.0 + tl.sqrt(start_sq))
    radius = tl.where(k == 0, first, radius)
    _, radius = advance_radius(growth, tl.zeros([], tl.float64), radius)
    grad_sq_sum += grad_sq
    lr = distance_over_gradients(momentum, radius, grad_sq_sum)
    return lr, growth, radius, grad_sq_sum


@triton.jit
def cap_move(lr, norm_sq, root):
    """A step may not move by more than a hundred. root: of norm_sq."""
    capped = number("LARGEST_MOVE") / tl.sqrt(norm_sq + number("EPSILON"))
    return tl.where(lr * root >= number("LARGEST_MOVE"), capped, lr)


_VARY = ["num_slots", "partials", "grad_scale", "found_inf", "state"]


@triton.jit(do_not_specialize=[*_VARY, "num_groups", "groups", "coefficients"])
def yellowfin_tune(
    numbers,
    num_slots,
    partials,
    sketches,
    grad_scale,
    found_inf,
    state,
    num_groups,
    groups,
    coefficients,
    scratch,
    WINDOW: tl.constexpr,
    WINDOW_TILE: tl.constexpr,
    TILE: tl.constexpr,
    SHARE: tl.constexpr,
    ADAPTIVE_CLIP: tl.constexpr,
    POLYAK: tl.constexpr,
    BUFFERED: tl.constexpr,
    LOG_SMOOTH: tl.constexpr,
    SPARSITY_DEBIAS: tl.constexpr,
    SKETCH: tl.constexpr,
    ROBUST: tl.constexpr,
):
    """numbers: of numbers_of(). Others: as in ops/backend.py.

    With a sketch each program folds a share of the buckets into `scratch`, and the last one to be
    done with that tunes; without, there is one program.
    """
    if SKETCH:
        _fold_sketches(sketches, num_slots, scratch, TILE, SHARE)
        ticket = (scratch + TILE).to(tl.pointer_type(tl.int32))
        if not is_last(ticket, tl.num_programs(0)):
            return

    beta, max_norm, initial_lr, initial_momentum = load_numbers(numbers)
    step = tl.load(state + at("state.step"))
    skipped = tl.load(state + at("state.skipped"))
    beta_power = tl.load(state + at("state.beta_power"))
    averages = load_averages(state)
    sparsity_avg = tl.load(state + at("state.sparsity_avg"))
    traveled = load_radius(state)
    grad_sq_sum = tl.load(state + at("state.grad_sq_sum"))
    recent = load_recent(state)
    envelope_sq = tl.load(state + at("state.h_max"))
    window = state + size("state")
    values = load_window(window, WINDOW, WINDOW_TILE)
    avg_grad_sq = slot_total(partials, num_slots, "slot.grad_sq")
    avg_dot_grad = slot_total(partials, num_slots, "slot.avg_dot_grad")
    avg_sq = slot_total(partials, num_slots, "slot.avg_sq")
    if SKETCH:
        bucket = tl.arange(0, TILE)
        sketch = tl.load(scratch + bucket)
        average = tl.load(window + WINDOW + bucket)
        avg_dot_grad = tl.sum(average * sketch)
        avg_sq = tl.sum(average * average)
        avg_grad_sq = tl.sum(sketch * sketch)
    grad_sq, inv_scale, finite, active = load_gradient(
        partials, num_slots, grad_scale, found_inf, ROBUST
    )
    tl.debug_barrier()

    if not active:
        skip(finite, skipped, state, num_groups, coefficients)
        return

    e = tl.full([], number("TINY") if ROBUST else number("EPSILON"), tl.float64)
    k = step.to(tl.int64)

    norm, clip, h = clip_gradient(grad_sq, max_norm, envelope_sq, k, e, ADAPTIVE_CLIP)
    beta_power = beta_power * beta
    debias = 1.0 - beta_power
    averages, curvature = learn(averages, values, h, k, beta, debias, e, WINDOW, LOG_SMOOTH)
    h_min, h_max, variance, distance = curvature
    tl.store(state + at("state.beta_power"), beta_power)
    store_averages(state, averages)
    tl.store(window + k % WINDOW, h)

    # the robust mode takes all of ‖g‖² for variance and keeps no average
    average_gain = (1.0 - beta) * clip * inv_scale
    if not ROBUST:
        average_sq = next_average_sq(beta, average_gain, avg_dot_grad, avg_sq, avg_grad_sq)
        variance -= average_sq / (debias * debias)
    variance = tl.maximum(variance, e)
    curvature = (h_min, h_max, variance, distance)
    if SPARSITY_DEBIAS:
        sparsity_avg, curvature = debias_sparsity(
            partials, num_slots, sparsity_avg, beta, debias, e, curvature
        )
        tl.store(state + at("state.sparsity_avg"), sparsity_avg)
    if ROBUST:
        h_min, h_max, variance, distance = curvature
        curvature = (limited_h_min(h_min, h_max), h_max, variance, distance)
    store_curvature(state, curvature)

    lr, momentum = choose_step(curvature, initial_lr, initial_momentum, step, k, e, WINDOW)
    update_clip, recent = clip_update(h, envelope_sq, recent, k, e, ADAPTIVE_CLIP, ROBUST)
    if ROBUST:
        start_sq = slot_total(partials, num_slots, "slot.start_sq")
        used_sq = update_clip * update_clip * h
        lr, growth, radius, grad_sq_sum = robust_lr(
            momentum, used_sq, start_sq, k, traveled, grad_sq_sum
        )
        tl.store(state + at("state.unread_growth"), 0.0)
        tl.store(state + at("state.growth"), growth)
        tl.store(state + at("state.radius"), radius)
        tl.store(state + at("state.grad_sq_sum"), grad_sq_sum)
        store_recent(state, recent)
    total_clip = clip * update_clip
    store_step(state, step, norm, clip, update_clip, momentum)

    root = tl.sqrt(h)
    for i in range(num_groups):
        group = groups + i * size("group")
        multiplier = tl.load(group + at("group.lr"))
        group_lr = lr * multiplier
        if ADAPTIVE_CLIP:
            group_lr = cap_move(group_lr, h, root)
        decay = tl.load(group + at("group.weight_decay"))
        if ROBUST:
            group_lr = limit_by_decay(group_lr, decay, momentum)
        tl.store(state + at("state.lr"), group_lr, mask=i == 0)
        decoupled = tl.load(group + at("group.decoupled")) != 0.0
        sign = tl.load(group + at("group.sign"))

        out = coefficients + i * size("yellowfin")
        # torch.optim.SGD, and so the reference, has no buffer in a step without momentum
        keeps = 1.0 if BUFFERED else tl.where(momentum != 0.0, 1.0, 0.0)
        tl.store(out + at("yellowfin.active"), 1.0)
        tl.store(out + at("yellowfin.grad_scale"), sign * (total_clip * inv_scale))
        tl.store(out + at("yellowfin.coupled_decay"), tl.where(decoupled, 0.0, decay))
        # a group whose lr was set to 0 stands still; Polyak's velocity alone would carry it on
        stands = multiplier == 0.0 if POLYAK else False
        tl.store(out + at("yellowfin.momentum"), tl.where(stands, 0.0, momentum))
        tl.store(out + at("yellowfin.velocity_gain"), -group_lr if POLYAK else 1.0)
        tl.store(out + at("yellowfin.velocity_keep"), keeps)
        kept = tl.where(decoupled, 1.0 - group_lr * decay, 1.0)
        tl.store(out + at("yellowfin.param_keep"), kept)
        tl.store(out + at("yellowfin.param_gain"), 1.0 if POLYAK else -group_lr)
        tl.store(out + at("yellowfin.average_decay"), beta)
        tl.store(out + at("yellowfin.average_gain"), average_gain)
        tl.store(out + at("yellowfin.update_clip"), 1.0)
        tl.store(out + at("yellowfin.shortfall"), 0.0)
        tl.store(out + at("yellowfin.unit"), 0.0)
        tl.store(out + at("yellowfin.unit_change"), 0.0)
        tl.store(out + at("yellowfin.lr"), group_lr)

    if SKETCH:
        tl.store(window + WINDOW + bucket, beta * average + average_gain * sketch)


def launch(
    options: YellowFinOptions,
    partials: Tensor,
    sketches: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    groups: Tensor,
    coefficients: Tensor,
    scratch: Tensor,
) -> None:
    """Runs the tuner where `state` lives."""
    scaler = scaler_numbers(state.device, grad_scale, found_inf)
    measured = (numbers_of(options, state.device), len(partials), partials, sketches)
    launch_kernel(
        yellowfin_tune,
        TILE // _SHARE if options.sketch else 1,
        state.device,
        "tuning",
        (*measured, *scaler, state, len(groups), groups, coefficients, scratch),
        WINDOW=options.window,
        WINDOW_TILE=triton.next_power_of_2(options.window),
        TILE=TILE,
        SHARE=_SHARE,
        ADAPTIVE_CLIP=options.adaptive_clip,
        POLYAK=options.polyak,
        BUFFERED=options.polyak or options.trust_ratio,
        LOG_SMOOTH=options.log_smooth,
        SPARSITY_DEBIAS=options.sparsity_debias,
        SKETCH=options.sketch,
        ROBUST=options.robust,
        **ALONE,
    )
