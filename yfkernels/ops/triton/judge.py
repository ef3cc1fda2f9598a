"""The gate: judge() of csrc/gate.h, in a program of its own or at the end of a measurement.

It rounds as the host does, but for the order in which slots are added up: products have no sums to
be fused with, and division and root are those of IEEE.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.triton.layout import at
from yfkernels.ops.triton.reduce import slot_total


@triton.jit
def judge(num_slots, partials, grad_scale, found_inf, state, num_groups, num_words, coefficients):
    """partials, grad_scale and found_inf may be None: not measured, no scale, no overflow."""
    # everything is read before the first store, behind a barrier: all warps run the same scalars
    skipped = tl.load(state + at("gate_state.skipped"))
    norm = tl.load(state + at("gate_state.grad_norm"))
    inv_scale = tl.full([], 1.0, tl.float64)
    if grad_scale is not None:
        inv_scale = 1.0 / tl.load(grad_scale).to(tl.float64)
    active = tl.full([], True, tl.int1)
    if found_inf is not None:
        active = tl.load(found_inf) == 0.0
    if partials is not None:
        norm_sq = slot_total(partials, num_slots, "slot.grad_sq") * (inv_scale * inv_scale)
        active = active & (norm_sq <= 1.7976931348623157e308)  # which NaN is not, either
        norm = tl.where(active, tl.sqrt(norm_sq), norm)
    else:
        norm = tl.where(active, float("nan"), norm)
    tl.debug_barrier()

    tl.store(state + at("gate_state.skipped"), tl.where(active, skipped, skipped + 1.0))
    tl.store(state + at("gate_state.grad_norm"), norm)
    for i in range(num_groups):
        group = coefficients + i * num_words
        max_norm = tl.load(group + at("settings.max_norm"))
        sign = tl.load(group + at("settings.sign"))
        clip = tl.full([], 1.0, tl.float64)
        if partials is not None:
            clip = tl.where(norm > max_norm, max_norm / norm, clip)
        tl.store(group + at("settings.active"), tl.where(active, 1.0, 0.0).to(tl.float64))
        tl.store(group + at("settings.grad_scale"), sign * inv_scale * clip)


@triton.jit(do_not_specialize=["num_slots", "num_groups", "num_words"])
def gate(num_slots, partials, grad_scale, found_inf, state, num_groups, num_words, coefficients):
    """One program."""
    judge(num_slots, partials, grad_scale, found_inf, state, num_groups, num_words, coefficients)


def launch(
    partials: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """Decides on the step where `state` lives."""
    num_slots = 0 if partials is None else len(partials)
    given = (num_slots, partials, grad_scale, found_inf, state)
    gate[(1,)](*given, *coefficients.shape, coefficients, num_warps=8)
