"""The gate: decide() of csrc/gate.h, in a program of its own or at the end of a measurement.

It rounds as the host does, but for the order in which slots are added up: products have no sums to
be fused with, and division and root are those of IEEE.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.triton.launch import launch as launch_kernel
from yfkernels.ops.triton.launch import scaler_numbers
from yfkernels.ops.triton.layout import at
from yfkernels.ops.triton.reduce import slot_total


@triton.jit
def decide(num_slots, partials, grad_scale, found_inf, state, num_groups, num_words, coefficients):
    """No slots: the gradients were not measured."""
    measured = num_slots > 0
    # everything is read before the first store, behind a barrier: all warps run the same scalars
    skipped = tl.load(state + at("gate_state.skipped"))
    norm = tl.load(state + at("gate_state.grad_norm"))
    inv_scale = 1.0 / tl.load(grad_scale).to(tl.float64)
    norm_sq = slot_total(partials, num_slots, "slot.grad_sq") * (inv_scale * inv_scale)
    finite = norm_sq <= 1.7976931348623157e308  # which NaN is not, either
    active = (tl.load(found_inf) == 0.0) & (finite | ~measured)
    norm = tl.where(active, tl.where(measured, tl.sqrt(norm_sq), float("nan")), norm)
    tl.debug_barrier()

    tl.store(state + at("gate_state.skipped"), tl.where(active, skipped, skipped + 1.0))
    tl.store(state + at("gate_state.grad_norm"), norm)
    for i in range(num_groups):
        group = coefficients + i * num_words
        max_norm = tl.load(group + at("settings.max_norm"))
        sign = tl.load(group + at("settings.sign"))
        clips = measured & (norm > max_norm)
        clip = tl.where(clips, max_norm / norm, tl.full([], 1.0, tl.float64))
        tl.store(group + at("settings.active"), tl.where(active, 1.0, 0.0).to(tl.float64))
        tl.store(group + at("settings.grad_scale"), sign * inv_scale * clip)


_VARY = ["num_slots", "partials", "grad_scale", "found_inf", "state"]


@triton.jit(do_not_specialize=[*_VARY, "num_groups", "num_words", "coefficients"])
def gate(num_slots, partials, grad_scale, found_inf, state, num_groups, num_words, coefficients):
    """One program."""
    decide(num_slots, partials, grad_scale, found_inf, state, num_groups, num_words, coefficients)


def launch(
    partials: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """Decides on the step where `state` lives."""
    # without slots nothing is read from there
    slots = (0, coefficients) if partials is None else (len(partials), partials)
    scaler = scaler_numbers(state.device, grad_scale, found_inf)
    arguments = (*slots, *scaler, state, *coefficients.shape, coefficients)
    launch_kernel(gate, 1, state.device, "deciding on the step", arguments, num_warps=8)
