"""What the tuners have in common, on values, operation for operation as on the host.

The steps are those of clips.h, statistics.h and distance.h in csrc/tuner, by the same names.
A tuner reads everything before its first store, behind a barrier: all warps run the same scalars.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.triton.launch import kept
from yfkernels.ops.triton.layout import at, number, size
from yfkernels.ops.triton.reduce import slot_total
from yfkernels.ops.triton.single_step import clip_factor

# How a tuner is launched. Products and sums round as they do on the host; and no registers are
# spared for other blocks, which there are none of: left to itself, the compiler spills.
ALONE: dict[str, Any] = {"num_warps": 8, "maxnreg": 255, "enable_fp_fusion": False}


def numbers_of(options: YellowFinOptions, device: torch.device) -> Tensor:
    """The options that are numbers: as kernel arguments they would be rounded to float32."""
    numbers = (options.beta, options.max_norm, options.initial_lr, options.initial_momentum)
    return kept(numbers, torch.float64, device)


@triton.jit
def load_numbers(numbers):
    """beta, max_norm, initial_lr, initial_momentum."""
    return tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3)


@triton.jit
def load_averages(state):
    """Those of learn()."""
    return (
        tl.load(state + at("state.grad_sq_avg")),
        tl.load(state + at("state.h_min_avg")),
        tl.load(state + at("state.h_max_avg")),
        tl.load(state + at("state.grad_norm_avg")),
        tl.load(state + at("state.distance_avg")),
    )


@triton.jit
def store_averages(state, averages):
    tl.store(state + at("state.grad_sq_avg"), averages[0])
    tl.store(state + at("state.h_min_avg"), averages[1])
    tl.store(state + at("state.h_max_avg"), averages[2])
    tl.store(state + at("state.grad_norm_avg"), averages[3])
    tl.store(state + at("state.distance_avg"), averages[4])


@triton.jit
def load_recent(state):
    """‖g‖² of the last ten steps or so: (average, power for its debias)."""
    return tl.load(state + at("state.recent_sq_avg")), tl.load(state + at("state.recent_power"))


@triton.jit
def store_recent(state, recent):
    tl.store(state + at("state.recent_sq_avg"), recent[0])
    tl.store(state + at("state.recent_power"), recent[1])


@triton.jit
def load_window(window, WINDOW: tl.constexpr, WINDOW_TILE: tl.constexpr):
    """The WINDOW values, and zeros up to WINDOW_TILE."""
    place = tl.arange(0, WINDOW_TILE)
    return tl.load(window + place, mask=place < WINDOW, other=0.0)


@triton.jit
def load_gradient(partials, num_slots, grad_scale, found_inf, ROBUST: tl.constexpr):
    """(‖g‖² unscaled, 1 / scale, whether it is finite, whether the step counts)."""
    inv_scale = 1.0 / tl.load(grad_scale).to(tl.float64)
    grad_sq = slot_total(partials, num_slots, "slot.grad_sq") * inv_scale * inv_scale
    finite = grad_sq <= 1.7976931348623157e308  # which NaN is not, either
    finite = finite & (tl.load(found_inf) == 0.0)
    active = finite
    if ROBUST:
        active = active & (grad_sq > 0.0)  # from silence there is nothing to learn
    return grad_sq, inv_scale, finite, active


@triton.jit
def skip(finite, skipped, state, num_groups, coefficients):
    """A step that does not count; skipped: how many have not been finite before it."""
    tl.store(state + at("state.skipped"), tl.where(finite, skipped, skipped + 1.0))
    for i in range(num_groups):
        tl.store(coefficients + i * size("yellowfin") + at("yellowfin.active"), 0.0)


@triton.jit
def clip_gradient(grad_sq, max_norm, envelope_sq, k, e, ADAPTIVE_CLIP: tl.constexpr):
    """(norm before the clips, clip, ‖g‖² after them): the user's clip, then the guard that caps how
    fast the statistics can grow.

    envelope_sq: the upper end of the window of ‖g‖² in the step before.
    """
    norm = tl.sqrt(grad_sq)
    clip = clip_factor(max_norm, norm, tl.full([], number("EPSILON"), tl.float64))
    if ADAPTIVE_CLIP:
        guard = clip_factor(number("ENVELOPE_GUARD") * tl.sqrt(envelope_sq) + e, clip * norm, e)
        clip = tl.where(k >= 2, clip * guard, clip)
    return norm, clip, clip * clip * grad_sq


@triton.jit
def clip_update(
    norm_sq, envelope_sq, recent, k, e, ADAPTIVE_CLIP: tl.constexpr, ROBUST: tl.constexpr
):
    """(update_clip, recent after the step): an exploding gradient is clipped in the update, after
    the statistics have seen it; and in the robust mode one that is long beside those before it.
    """
    root = tl.sqrt(norm_sq)
    recent_sq_avg, recent_power = recent
    update_clip = tl.full([], 1.0, tl.float64)
    if ADAPTIVE_CLIP:
        exploding = (k >= 1) & (norm_sq >= envelope_sq)
        update_clip = tl.where(
            exploding, clip_factor(tl.sqrt(envelope_sq) + e, root, e), update_clip
        )
        if ROBUST:
            recent_sq = recent_sq_avg / (1.0 - recent_power)
            spike_clip = clip_factor(number("SPIKE") * tl.sqrt(recent_sq), root, e)
            update_clip = tl.where(
                k >= number("SPIKE_STEPS"), tl.minimum(spike_clip, update_clip), update_clip
            )
    if ROBUST:
        decay = tl.full([], number("RECENT"), tl.float64)
        recent_sq_avg = decay * recent_sq_avg + (1.0 - decay) * norm_sq
        recent_power = tl.where(k == 0, decay, decay * recent_power)
    return update_clip, (recent_sq_avg, recent_power)


@triton.jit
def ends_of_window(window, k, value, e, WINDOW: tl.constexpr, LOG_SMOOTH: tl.constexpr):
    """(low, high) of a window that has seen k values before this one, or their logarithms."""
    place = tl.arange(0, window.shape[0])
    filled = (place < WINDOW) & (place <= k)
    window = tl.where(place == k % WINDOW, value, window)
    low = tl.min(tl.where(filled, window, float("inf")))
    high = tl.max(tl.where(filled, window, float("-inf")))
    if LOG_SMOOTH:
        low = tl.log(low + e)
        high = tl.log(high + e)
    return low, high


@triton.jit
def end_of_range(average, debias, LOG_SMOOTH: tl.constexpr):
    """What an average of such ends says."""
    end = average / debias
    return tl.exp(end) if LOG_SMOOTH else end


@triton.jit
def learn(averages, window, h, k, beta, debias, e, WINDOW: tl.constexpr, LOG_SMOOTH: tl.constexpr):
    """(averages after h, (h_min, h_max, variance, distance)). variance: before a signal is
    subtracted.

    k: how many h have been before; debias: 1 - beta^(k + 1).
    """
    grad_sq_avg, h_min_avg, h_max_avg, grad_norm_avg, distance_avg = averages
    gain = 1.0 - beta
    grad_sq_avg = beta * grad_sq_avg + gain * h
    low, high = ends_of_window(window, k, h, e, WINDOW, LOG_SMOOTH)
    h_min_avg = beta * h_min_avg + gain * low
    h_max_avg = beta * h_max_avg + gain * high
    grad_norm_avg = beta * grad_norm_avg + gain * tl.sqrt(h)
    distance_avg = beta * distance_avg + gain * (grad_norm_avg / (grad_sq_avg + e))
    curvature = (
        end_of_range(h_min_avg, debias, LOG_SMOOTH),
        end_of_range(h_max_avg, debias, LOG_SMOOTH),
        grad_sq_avg / debias,
        distance_avg / debias,
    )
    return (grad_sq_avg, h_min_avg, h_max_avg, grad_norm_avg, distance_avg), curvature


@triton.jit
def store_curvature(state, curvature):
    """What SingleStep was given."""
    tl.store(state + at("state.h_min"), curvature[0])
    tl.store(state + at("state.h_max"), curvature[1])
    tl.store(state + at("state.variance"), curvature[2])
    tl.store(state + at("state.distance"), curvature[3])


@triton.jit
def store_step(state, step, norm, clip, update_clip, momentum):
    """Counts the step, and keeps what it was given and used for those who ask."""
    tl.store(state + at("state.step"), step + 1.0)
    tl.store(state + at("state.momentum"), momentum)
    tl.store(state + at("state.grad_norm"), norm)
    tl.store(state + at("state.clip_coefficient"), clip * update_clip)


@triton.jit
def limited_h_min(h_min, h_max):
    """h_min of a curvature range, and of the momentum that follows, which cannot run away."""
    return tl.maximum(h_min, h_max / tl.full([], number("WIDEST_RANGE"), tl.float64))


@triton.jit
def load_radius(state):
    """(unread growth, growth, radius) of advance_radius()."""
    return (
        tl.load(state + at("state.unread_growth")),
        tl.load(state + at("state.growth")),
        tl.load(state + at("state.radius")),
    )


@triton.jit
def advance_radius(growth, walk, radius):
    """(walk, radius), as far as the growth of ‖x‖² tells, without the walk's part of it."""
    walk = tl.minimum(walk, tl.maximum(growth, 0.0))
    return walk, tl.maximum(radius, tl.sqrt(tl.abs(growth) - walk))


@triton.jit
def distance_over_gradients(momentum, radius, grad_sq_sum):
    """The robust step size: how far the parameters have come, over the sum of gradients."""
    lr = (1.0 - momentum) * radius / tl.sqrt(grad_sq_sum)
    return tl.where(grad_sq_sum > 0.0, lr, 0.0)


@triton.jit
def limit_by_decay(lr, decay, momentum):
    """The statistics do not see weight decay: lr of a very small loss would be too large for it."""
    rest = 1.0 - momentum
    return tl.where(lr * decay > rest, rest / decay, lr)
