"""The YellowFin tuner on the device: tune() of csrc/tuner.h line by line, in one launch.

Launched with `enable_fp_fusion=False`, so that products and sums round as they do on the host. Two
things differ from the host in the last bits: ln and exp, and the order in which slots and buckets
are added up, which is fixed too but is that of a tree.
Source: Zhang, Mitliagkas, Ré, arXiv 1706.03471.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.triton.layout import at, size
from yfkernels.ops.triton.reduce import is_last, slot_total
from yfkernels.ops.triton.single_step import (
    clip_factor,
    distance_over_gradients,
    single_step,
)
from yfkernels.ops.tuner import TILE, TunerOptions

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


@triton.jit(do_not_specialize=["num_slots", "num_groups"])
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
    """numbers: beta, max_norm, initial_lr, initial_momentum. Others: as in ops/__init__.py.

    With a sketch each program folds a share of the buckets into `scratch`, and the last one to be
    done with that tunes; without, there is one program.
    """
    if SKETCH:
        _fold_sketches(sketches, num_slots, scratch, TILE, SHARE)
        ticket = (scratch + TILE).to(tl.pointer_type(tl.int32))
        if not is_last(ticket, tl.num_programs(0)):
            return

    # everything is read before the first store, behind a barrier: all warps run the same scalars
    beta = tl.load(numbers)
    max_norm = tl.load(numbers + 1)
    initial_lr = tl.load(numbers + 2)
    initial_momentum = tl.load(numbers + 3)
    step = tl.load(state + at("state.step"))
    skipped = tl.load(state + at("state.skipped"))
    beta_power = tl.load(state + at("state.beta_power"))
    grad_sq_avg = tl.load(state + at("state.grad_sq_avg"))
    h_min_avg = tl.load(state + at("state.h_min_avg"))
    h_max_avg = tl.load(state + at("state.h_max_avg"))
    grad_norm_avg = tl.load(state + at("state.grad_norm_avg"))
    distance_avg = tl.load(state + at("state.distance_avg"))
    sparsity_avg = tl.load(state + at("state.sparsity_avg"))
    unread_growth = tl.load(state + at("state.unread_growth"))
    growth = tl.load(state + at("state.growth"))
    radius = tl.load(state + at("state.radius"))
    grad_sq_sum = tl.load(state + at("state.grad_sq_sum"))
    recent_sq_avg = tl.load(state + at("state.recent_sq_avg"))
    recent_power = tl.load(state + at("state.recent_power"))
    last_h_max = tl.load(state + at("state.h_max"))
    window = state + size("state")
    place = tl.arange(0, WINDOW_TILE)
    recent = tl.load(window + place, mask=place < WINDOW, other=0.0)
    grad_sq = slot_total(partials, num_slots, "slot.grad_sq")
    avg_dot_grad = slot_total(partials, num_slots, "slot.avg_dot_grad")
    avg_sq = slot_total(partials, num_slots, "slot.avg_sq")
    avg_grad_sq = grad_sq
    if SKETCH:
        bucket = tl.arange(0, TILE)
        sketch = tl.load(scratch + bucket)
        average = tl.load(window + WINDOW + bucket)
        avg_dot_grad = tl.sum(average * sketch)
        avg_sq = tl.sum(average * average)
        avg_grad_sq = tl.sum(sketch * sketch)
    inv_scale = 1.0
    if grad_scale is not None:
        inv_scale = 1.0 / tl.load(grad_scale).to(tl.float64)
    grad_sq = grad_sq * inv_scale * inv_scale
    finite = grad_sq <= 1.7976931348623157e308  # which NaN is not, either
    if found_inf is not None:
        finite = finite & (tl.load(found_inf) == 0.0)
    active = finite
    if ROBUST:
        active = active & (grad_sq > 0.0)  # from silence there is nothing to learn
    tl.debug_barrier()

    if not active:
        tl.store(state + at("state.skipped"), tl.where(finite, skipped, skipped + 1.0))
        for i in range(num_groups):
            out = coefficients + i * size("yellowfin")
            tl.store(out + at("yellowfin.active"), 0.0)
        return

    gain = 1.0 - beta
    e = tl.full([], 1e-30 if ROBUST else 1e-6, tl.float64)
    k = step.to(tl.int64)
    envelope = tl.sqrt(last_h_max)  # of the step before

    # 1-2. the manual clip, then the guard that caps how fast the statistics can grow
    norm = tl.sqrt(grad_sq)
    clip = clip_factor(max_norm, norm, tl.full([], 1e-6, tl.float64))
    if ADAPTIVE_CLIP:
        guard = clip_factor(10.0 * envelope + e, clip * norm, e)
        clip = tl.where(k >= 2, clip * guard, clip)

    # 3. h and its average
    h = clip * clip * grad_sq
    h_root = tl.sqrt(h)
    exploding = (k >= 1) & (h >= last_h_max)
    grad_sq_avg = beta * grad_sq_avg + gain * h
    beta_power = beta_power * beta
    debias = 1.0 - beta_power

    # 4. curvature range over the window
    filled = (place < WINDOW) & (place <= k)
    recent = tl.where(place == k % WINDOW, h, recent)
    low = tl.min(tl.where(filled, recent, float("inf")))
    high = tl.max(tl.where(filled, recent, float("-inf")))
    if LOG_SMOOTH:
        low = tl.log(low + e)
        high = tl.log(high + e)
    h_min_avg = beta * h_min_avg + gain * low
    h_max_avg = beta * h_max_avg + gain * high
    h_min = h_min_avg / debias
    h_max = h_max_avg / debias
    if LOG_SMOOTH:
        h_min = tl.exp(h_min)
        h_max = tl.exp(h_max)

    # 5. variance: in the robust mode all of ‖g‖², and no average is kept
    average_gain = gain * clip * inv_scale
    new_avg_sq = (
        beta * beta * avg_sq
        + 2.0 * beta * average_gain * avg_dot_grad
        + average_gain * average_gain * avg_grad_sq
    )
    variance = grad_sq_avg / debias
    if not ROBUST:
        variance -= new_avg_sq / (debias * debias)
    variance = tl.maximum(variance, e)

    # 6. distance to the optimum
    grad_norm_avg = beta * grad_norm_avg + gain * h_root
    distance_avg = beta * distance_avg + gain * (grad_norm_avg / (grad_sq_avg + e))
    distance = distance_avg / debias

    if SPARSITY_DEBIAS:
        nonzero = slot_total(partials, num_slots, "slot.nonzero")
        count = slot_total(partials, num_slots, "slot.count")
        share = tl.where(count > 0.0, nonzero / tl.maximum(count, 1.0), 0.0)
        sparsity_avg = beta * sparsity_avg + gain * share
        share = sparsity_avg / debias
        h_min *= share
        h_max *= share
        variance *= share
        distance = distance / (tl.sqrt(share) + e)

    if ROBUST:
        widest = tl.full([], 30.0, tl.float64)
        h_min = tl.maximum(h_min, h_max / widest)

    # 7. SingleStep, with a slow start over ten windows
    lr, momentum = single_step(distance, variance, h_min, h_max, e)
    warmup = (step + 1.0) / (10.0 * WINDOW)
    lr = tl.where(k >= 1, lr * tl.minimum(warmup, 1.0), initial_lr)
    momentum = tl.where(k >= 1, momentum, initial_momentum)

    # 9. an exploding gradient is clipped in the update, after the statistics saw it; and in the
    # robust mode one that is long beside those just before it
    calm = tl.full([], 1.0, tl.float64)
    if ADAPTIVE_CLIP:
        calm = tl.where(exploding, clip_factor(envelope + e, h_root, e), calm)
    if ROBUST:
        recent = tl.full([], 0.9, tl.float64)
        if ADAPTIVE_CLIP:
            recent_sq = recent_sq_avg / (1.0 - recent_power)
            spike_clip = clip_factor(2.0 * tl.sqrt(recent_sq), h_root, e)
            calm = tl.where(k >= 10, tl.minimum(spike_clip, calm), calm)
        recent_sq_avg = recent * recent_sq_avg + (1.0 - recent) * h
        recent_power = tl.where(k == 0, recent, recent * recent_power)

        growth += unread_growth + slot_total(partials, num_slots, "slot.growth")
        start_sq = slot_total(partials, num_slots, "slot.start_sq")
        first_radius = tl.full([], 1e-3, tl.float64) * (1.0 + tl.sqrt(start_sq))
        radius = tl.where(k == 0, first_radius, radius)
        radius = tl.maximum(radius, tl.sqrt(tl.abs(growth)))
        grad_sq_sum += calm * calm * h
        lr = distance_over_gradients(momentum, radius, grad_sq_sum)
    update_clip = clip * calm

    # 8. the user's multiplier, and a cap on the move of one step
    for i in range(num_groups):
        group = groups + i * size("group")
        multiplier = tl.load(group + at("group.lr"))
        group_lr = lr * multiplier
        if ADAPTIVE_CLIP:
            capped = 100.0 / tl.sqrt(h + 1e-6)
            group_lr = tl.where(group_lr * h_root >= 100.0, capped, group_lr)
        decay = tl.load(group + at("group.weight_decay"))
        if ROBUST:
            # the statistics do not see weight decay: of a small loss lr would be too much for it
            rest = 1.0 - momentum
            group_lr = tl.where(group_lr * decay > rest, rest / decay, group_lr)
        tl.store(state + at("state.lr"), group_lr, mask=i == 0)
        decoupled = tl.load(group + at("group.decoupled")) != 0.0
        sign = tl.load(group + at("group.sign"))

        out = coefficients + i * size("yellowfin")
        # torch.optim.SGD, and so the reference, has no buffer in a step without momentum
        keeps = 1.0 if BUFFERED else tl.where(momentum != 0.0, 1.0, 0.0)
        tl.store(out + at("yellowfin.active"), 1.0)
        tl.store(out + at("yellowfin.grad_scale"), sign * (update_clip * inv_scale))
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

    tl.store(state + at("state.step"), step + 1.0)
    tl.store(state + at("state.beta_power"), beta_power)
    tl.store(state + at("state.grad_sq_avg"), grad_sq_avg)
    tl.store(state + at("state.h_min_avg"), h_min_avg)
    tl.store(state + at("state.h_max_avg"), h_max_avg)
    tl.store(state + at("state.grad_norm_avg"), grad_norm_avg)
    tl.store(state + at("state.distance_avg"), distance_avg)
    tl.store(state + at("state.sparsity_avg"), sparsity_avg)
    if ROBUST:
        tl.store(state + at("state.unread_growth"), 0.0)
        tl.store(state + at("state.growth"), growth)
        tl.store(state + at("state.radius"), radius)
        tl.store(state + at("state.grad_sq_sum"), grad_sq_sum)
        tl.store(state + at("state.recent_sq_avg"), recent_sq_avg)
        tl.store(state + at("state.recent_power"), recent_power)
    tl.store(state + at("state.h_min"), h_min)
    tl.store(state + at("state.h_max"), h_max)
    tl.store(state + at("state.variance"), variance)
    tl.store(state + at("state.distance"), distance)
    tl.store(state + at("state.momentum"), momentum)
    tl.store(state + at("state.grad_norm"), norm)
    tl.store(state + at("state.clip_coefficient"), update_clip)
    tl.store(window + k % WINDOW, h)
    if SKETCH:
        tl.store(window + WINDOW + bucket, beta * average + average_gain * sketch)


@cache
def _numbers(options: TunerOptions, device: torch.device) -> Tensor:
    """The options that are numbers: as kernel arguments they would be rounded to float32.

    Kept for good, as a captured graph may go on reading them.
    """
    numbers = (options.beta, options.max_norm, options.initial_lr, options.initial_momentum)
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def launch(
    options: TunerOptions,
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
    yellowfin_tune[(TILE // _SHARE if options.sketch else 1,)](
        _numbers(options, state.device),
        len(partials),
        partials,
        sketches,
        grad_scale,
        found_inf,
        state,
        len(groups),
        groups,
        coefficients,
        scratch,
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
        num_warps=8,
        enable_fp_fusion=False,
    )
