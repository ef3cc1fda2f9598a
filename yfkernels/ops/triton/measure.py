"""YellowFin, measure: one pass over the gradients (and their averages) into the table's slots."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.table import TensorTable
from yfkernels.ops.triton.layout import at, size
from yfkernels.ops.triton.table import DTYPES, chunk_at, column, elements
from yfkernels.ops.tuner import TILE

_WARPS = 8


@triton.jit
def _flip_signs(grad, tile):
    """A tile with the sketch's signs; as sign_bits() of csrc/rules.h. tile: its index, int64.

    One hash gives the signs of 32 elements; it is worked out once for each row of the tile.
    """
    ROWS: tl.constexpr = grad.shape[0]
    WIDTH: tl.constexpr = grad.shape[1]
    first_block = tile * (ROWS * WIDTH // 32)
    place = tl.arange(0, ROWS) * WIDTH
    x = first_block.to(tl.uint32) + (place // 32).to(tl.uint32)
    x ^= (first_block >> 32).to(tl.uint32)
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    bit = (place % 32)[:, None] + tl.arange(0, WIDTH)[None, :]
    minus = (x[:, None] >> bit.to(tl.uint32)) << 31
    return (grad.to(tl.uint32, bitcast=True) ^ minus).to(tl.float32, bitcast=True)


@triton.jit
def _sum_by_thread(tile, THREADS: tl.constexpr):
    """The sum of what each thread holds of a tile: row r belongs to thread r mod THREADS."""
    rows = tl.sum(tile, axis=1)
    return tl.sum(tl.reshape(rows, [tile.shape[0] // THREADS, THREADS]), axis=0)


@triton.jit(do_not_specialize=["num_chunks", "partials"])
def yellowfin_measure(
    words,
    chunks,
    num_chunks,
    partials,
    sketches,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
    SKETCH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Program s sums a fixed run of chunks into slot s: the sums do not hang on the device.

    A tile is a matrix of 4096 elements in the order of memory, a row as wide as a 16-byte load of
    the gradient. Sums are float32 along a row and over a chunk, float64 over the slot. Place j of
    a tile is always bucket j of the sketch, which therefore stays in registers.
    """
    WIDTH: tl.constexpr = 128 // DTYPE.primitive_bitwidth
    ROWS: tl.constexpr = TILE // WIDTH
    lanes = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    slot = tl.program_id(0).to(tl.int64)
    begin = slot * num_chunks // tl.num_programs(0)
    end = (slot + 1) * num_chunks // tl.num_programs(0)

    slot_grad_sq = tl.zeros([THREADS], tl.float64)
    slot_dot = tl.zeros([THREADS], tl.float64)
    slot_avg_sq = tl.zeros([THREADS], tl.float64)
    slot_nonzero = tl.zeros([THREADS], tl.float64)
    slot_count = tl.zeros([], tl.int64)
    sketch = tl.zeros([ROWS, WIDTH], tl.float32)
    for index in range(begin, end):
        row, first = chunk_at(words, chunks, index)
        n = elements(row, first, CHUNK)
        g = column(row, "row.grad", first, DTYPE, ALIGNED)
        gbar = column(row, "row.grad_avg", first, tl.float32, ALIGNED)
        origin = tl.load(row + at("row.origin")) + first
        # a shard may begin inside a tile, and then none of its tiles is whole
        shift = (origin % TILE).to(tl.int32) if SKETCH else 0
        whole = n // TILE * TILE if shift == 0 else -shift

        grad_sq = tl.zeros([THREADS], tl.float32)
        dot = tl.zeros([THREADS], tl.float32)
        avg_sq = tl.zeros([THREADS], tl.float32)
        nonzero = tl.zeros([THREADS], tl.float32)
        # whole tiles without a mask, so that every load is 16 bytes wide; then the ragged ends
        for RAGGED in tl.static_range(2):
            for i in range(whole if RAGGED else 0, n if RAGGED else whole, TILE):
                place = i + lanes
                mask = (place >= 0) & (place < n) if RAGGED else None
                other = 0.0 if RAGGED else None
                grad = tl.load(g + place, mask, other).to(tl.float32)
                grad_sq += _sum_by_thread(grad * grad, THREADS)
                nonzero += _sum_by_thread((grad != 0.0).to(tl.float32), THREADS)
                if SKETCH:
                    sketch += _flip_signs(grad, (origin + i) // TILE)
                else:
                    average = tl.load(gbar + place, mask, other)
                    dot += _sum_by_thread(average * grad, THREADS)
                    avg_sq += _sum_by_thread(average * average, THREADS)
        slot_grad_sq += grad_sq.to(tl.float64)
        slot_dot += dot.to(tl.float64)
        slot_avg_sq += avg_sq.to(tl.float64)
        slot_nonzero += nonzero.to(tl.float64)
        slot_count += n

    out = partials + slot * size("slot")
    tl.store(out + at("slot.grad_sq"), tl.sum(slot_grad_sq))
    tl.store(out + at("slot.avg_dot_grad"), tl.sum(slot_dot))
    tl.store(out + at("slot.avg_sq"), tl.sum(slot_avg_sq))
    tl.store(out + at("slot.nonzero"), tl.sum(slot_nonzero))
    tl.store(out + at("slot.count"), slot_count.to(tl.float64))
    if SKETCH:
        tl.store(sketches + slot * TILE + lanes, sketch)


def launch(table: TensorTable, partials: Tensor, sketches: Tensor | None) -> None:
    """Measures a table, one program a slot."""
    yellowfin_measure[(table.num_slots,)](
        table.words,
        table.chunks,
        table.num_chunks,
        partials,
        sketches,
        DTYPE=DTYPES[table.dtype],
        CHUNK=table.chunk_size,
        TILE=TILE,
        THREADS=32 * _WARPS,
        SKETCH=sketches is not None,
        ALIGNED=table.aligned and table.grads_aligned,
        num_warps=_WARPS,
    )
