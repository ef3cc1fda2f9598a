"""The reading pass over the gradients (and their averages) into the table's slots."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.constants import TILE
from yfkernels.ops.rules import Measure
from yfkernels.ops.table import TensorTable
from yfkernels.ops.triton.gate import decide
from yfkernels.ops.triton.launch import launch as launch_kernel
from yfkernels.ops.triton.launch import scaler_numbers
from yfkernels.ops.triton.layout import at, size
from yfkernels.ops.triton.reduce import is_last
from yfkernels.ops.triton.rounding import mixed
from yfkernels.ops.triton.table import DTYPES, are_aligned, column, piece_at

_WARPS = 8


@triton.jit
def _flip_signs(grad, tile, rows):
    """A tile with the sketch's signs; as sign_bits() of csrc/random.h. tile: its index, int64.

    One hash gives the signs of 32 elements; it is computed once for each 16-byte row.
    """
    WIDTH: tl.constexpr = grad.shape[2]
    first_block = tile * (grad.numel // 32)
    x = first_block.to(tl.uint32) + (rows * WIDTH // 32).to(tl.uint32)
    x ^= (first_block >> 32).to(tl.uint32)
    x = mixed(x)
    bits = (rows * WIDTH % 32)[:, :, None] + tl.arange(0, WIDTH)[None, None, :]
    minus = (x[:, :, None] >> bits.to(tl.uint32)) << 31
    return (grad.to(tl.uint32, bitcast=True) ^ minus).to(tl.float32, bitcast=True)


_VARY = ["num_chunks", "own", "num_slots", "partials", "grad_scale", "found_inf", "state"]


@triton.jit(do_not_specialize=[*_VARY, "num_groups", "num_words", "coefficients"])
def measure(
    words,
    chunks,
    num_chunks,
    own,
    sketches,
    ticket,
    num_slots,
    partials,
    grad_scale,
    found_inf,
    state,
    num_groups,
    num_words,
    coefficients,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
    AVERAGES: tl.constexpr,
):
    """Program s sums a fixed run of chunks into slot s: the sums do not depend on the device.

    A tile is 4096 elements in the order of memory as [repeat, thread, element], where a thread's
    row of elements is one 16-byte load of the gradient. Threads sum what they hold in float32 over
    a chunk, in float64 over the slot. Place j of a tile is always bucket j of the sketch, which
    therefore stays in registers.

    With a ticket the last program to be done passes the gate, for which the arguments from there to
    `coefficients` are; without, they are None, as `sketches` is if none is wanted.
    """
    SKETCH: tl.constexpr = sketches is not None
    GRAD: tl.constexpr = ("row.grad",)  # by a name of its own: Triton 3.6 loses a tuple in a call
    WIDTH: tl.constexpr = 128 // DTYPE.primitive_bitwidth
    REPEATS: tl.constexpr = TILE // (THREADS * WIDTH)
    rows = tl.arange(0, REPEATS)[:, None] * THREADS + tl.arange(0, THREADS)[None, :]
    lanes = rows[:, :, None] * WIDTH + tl.arange(0, WIDTH)[None, None, :]
    slot = tl.program_id(0).to(tl.int64)
    begin = slot * num_chunks // tl.num_programs(0)
    end = (slot + 1) * num_chunks // tl.num_programs(0)

    slot_grad_sq = tl.full([THREADS], 0.0, tl.float64)
    slot_dot = tl.full([THREADS], 0.0, tl.float64)
    slot_avg_sq = tl.full([THREADS], 0.0, tl.float64)
    slot_nonzero = tl.full([THREADS], 0.0, tl.float64)
    slot_count = tl.full([], 0, tl.int64)
    sketch = tl.full([REPEATS, THREADS, WIDTH], 0.0, tl.float32)
    for index in range(begin, end):
        _, row, _, first, n = piece_at(words, chunks, index, CHUNK, CHUNK)
        g = column(row, "row.grad", first, DTYPE)
        if AVERAGES:
            gbar = column(row, "row.state", first, tl.float32, 1)
        origin = tl.load(row + at("row.origin")) + first
        # a small tensor or a shard may begin inside a tile, and then none of its tiles is whole
        shift = (origin % TILE).to(tl.int32) if SKETCH else 0
        in_tiles = are_aligned(row, GRAD, 2 if AVERAGES else 0) & (shift == 0)
        whole = tl.where(in_tiles, n // TILE * TILE, -shift)

        grad_sq = tl.full([THREADS], 0.0, tl.float32)
        dot = tl.full([THREADS], 0.0, tl.float32)
        avg_sq = tl.full([THREADS], 0.0, tl.float32)
        nonzero = tl.full([THREADS], 0.0, tl.float32)
        # whole tiles without a mask, so that every load is 16 bytes wide; then the ragged ends
        for RAGGED in tl.static_range(2):
            for i in range(whole if RAGGED else 0, n if RAGGED else whole, TILE):
                place = i + lanes
                mask = (place >= 0) & (place < n) if RAGGED else None
                other = 0.0 if RAGGED else None
                grad = tl.load(g + place, mask, other).to(tl.float32)
                grad_sq += tl.sum(tl.sum(grad * grad, axis=2), axis=0)
                nonzero += tl.sum(tl.sum((grad != 0.0).to(tl.float32), axis=2), axis=0)
                if SKETCH:
                    sketch += _flip_signs(grad, (origin + i) // TILE, rows)
                if AVERAGES:
                    average = tl.load(gbar + place, mask, other)
                    dot += tl.sum(tl.sum(average * grad, axis=2), axis=0)
                    avg_sq += tl.sum(tl.sum(average * average, axis=2), axis=0)
        slot_grad_sq += grad_sq.to(tl.float64)
        slot_dot += dot.to(tl.float64)
        slot_avg_sq += avg_sq.to(tl.float64)
        slot_nonzero += nonzero.to(tl.float64)
        slot_count += n

    out = own + slot * size("slot")
    tl.store(out + at("slot.grad_sq"), tl.sum(slot_grad_sq))
    tl.store(out + at("slot.avg_dot_grad"), tl.sum(slot_dot))
    tl.store(out + at("slot.avg_sq"), tl.sum(slot_avg_sq))
    tl.store(out + at("slot.nonzero"), tl.sum(slot_nonzero))
    tl.store(out + at("slot.count"), slot_count.to(tl.float64))
    if SKETCH:
        tl.store(sketches + slot * TILE + lanes, sketch)
    if ticket is not None:  # noqa: SIM102  decided when this is compiled
        if is_last(ticket, tl.num_programs(0)):
            decide(
                num_slots,
                partials,
                grad_scale,
                found_inf,
                state,
                num_groups,
                num_words,
                coefficients,
            )


_NO_GATE = (None,) * 9


def launch(table: TensorTable, what: Measure, own: Tensor, sketches: Tensor | None) -> None:
    """Measures a table, one program a slot."""
    _launch(table, what, own, sketches, *_NO_GATE)


def launch_with_gate(
    table: TensorTable,
    own: Tensor,
    partials: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """Measures the norm of the last table, and then decides on the step."""
    slots = (len(partials), partials)
    scaler = scaler_numbers(table.device, grad_scale, found_inf)
    memory = (state, *coefficients.shape, coefficients)
    _launch(table, Measure.NORM, own, None, table.tickets, *slots, *scaler, *memory)


def _launch(
    table: TensorTable, what: Measure, own: Tensor, sketches: Tensor | None, *gate: object
) -> None:
    launch_kernel(
        measure,
        table.num_slots,
        table.device,
        f"measuring {table.dtype} gradients ({what.name.lower()})",
        (table.words, table.chunks, table.num_chunks, own, sketches, *gate),
        DTYPE=DTYPES[table.dtype],
        CHUNK=table.chunk_size,
        TILE=TILE,
        THREADS=32 * _WARPS,
        AVERAGES=what == Measure.AVERAGE,
        num_warps=_WARPS,
    )
