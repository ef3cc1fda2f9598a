"""Sums that the last program to be done adds up, in an order that depends on their number alone."""

from __future__ import annotations

import triton
import triton.language as tl

from yfkernels.ops.triton.layout import at, size


@triton.jit
def is_last(ticket, count):
    """Whether this is the last of `count` programs to draw the ticket, which is an int32.

    It is zero before and zero again afterwards. The last program sees what all others have stored,
    and they have read what they wanted.
    """
    tl.debug_barrier()  # one thread draws, for all of its program
    last = tl.atomic_add(ticket, 1, sem="acq_rel") == count - 1
    if last:
        tl.store(ticket, 0)
    return last


@triton.jit
def strided_total(values, count, STRIDE: tl.constexpr):
    """Σ of `count` doubles that lie STRIDE apart."""
    lanes = tl.arange(0, 256)
    total = tl.full([256], 0.0, tl.float64)
    for first in range(0, count, 256):
        place = first + lanes
        total += tl.load(values + place * STRIDE, mask=place < count, other=0.0)
    return tl.sum(total)


@triton.jit
def slot_total(partials, num_slots, FIELD: tl.constexpr):
    """One of a measurement's sums over all slots."""
    return strided_total(partials + at(FIELD), num_slots, size("slot"))
