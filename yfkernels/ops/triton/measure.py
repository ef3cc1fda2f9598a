"""YellowFin, measure: one pass over the gradients (and their averages) into the table's slots."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.table import TensorTable
from yfkernels.ops.triton.table import (
    DTYPES,
    GRAD,
    GRAD_AVG,
    ORIGIN,
    chunk_at,
    column,
    elements,
    load,
)
from yfkernels.ops.tuner import SUMS, TILE

_TILE: tl.constexpr = tl.constexpr(TILE)
_SUMS: tl.constexpr = tl.constexpr(len(SUMS))


@triton.jit
def _flip_signs(grad, tile, WIDTH: tl.constexpr):
    """The elements of a tile with the sketch's signs: sign_bits() of csrc/rules.h.

    One hash gives the signs of 32 elements; it is worked out once for each row of the tile.
    """
    first_block = tile * (_TILE // 32)
    place = tl.arange(0, _TILE // WIDTH) * WIDTH
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
def _add_tile(g, gbar, at, mask, tile, grad_sq, dot, avg_sq, nonzero, sketch, SKETCH: tl.constexpr):
    """The running float32 sums of a chunk with one more tile; at, mask: [rows, width]."""
    grad = load(g, at, mask)
    grad_sq += tl.sum(grad * grad, axis=1)
    nonzero += tl.sum((grad != 0.0).to(tl.float32), axis=1)
    if SKETCH:
        sketch += _flip_signs(grad, tile, grad.shape[1])
    else:
        average = load(gbar, at, mask)
        dot += tl.sum(average * grad, axis=1)
        avg_sq += tl.sum(average * average, axis=1)
    return grad_sq, dot, avg_sq, nonzero, sketch


@triton.jit(do_not_specialize=["num_chunks", "partials"])
def yellowfin_measure(
    words,
    chunks,
    num_chunks,
    partials,
    sketches,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    SKETCH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Program s sums a fixed run of chunks into slot s, so that no sum hangs on the device.

    A tile is a matrix of 4096 elements in the order of memory, each row one 16-byte load of the
    gradient. Sums are float32 along a row and over a chunk, float64 over the slot. Lane j of a
    tile is always bucket j of the sketch, which therefore stays in registers.
    """
    WIDTH: tl.constexpr = 128 // DTYPE.primitive_bitwidth
    ROWS: tl.constexpr = _TILE // WIDTH
    slot = tl.program_id(0).to(tl.int64)
    begin = slot * num_chunks // tl.num_programs(0)
    end = (slot + 1) * num_chunks // tl.num_programs(0)
    lanes = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]

    slot_grad_sq = tl.zeros([ROWS], tl.float64)
    slot_dot = tl.zeros([ROWS], tl.float64)
    slot_avg_sq = tl.zeros([ROWS], tl.float64)
    slot_nonzero = tl.zeros([ROWS], tl.float64)
    count = tl.zeros([], tl.int64)
    sketch = tl.zeros([ROWS, WIDTH], tl.float32)
    for index in range(begin, end):
        row, first = chunk_at(words, chunks, index)
        n = elements(row, first, CHUNK)
        g = column(row, GRAD, DTYPE, first, ALIGNED)
        gbar = column(row, GRAD_AVG, tl.float32, first, ALIGNED)
        start = tl.load(row + ORIGIN) + first
        # a shard may begin inside a tile; then no tile of it is whole
        shift = (start % _TILE).to(tl.int32) if SKETCH else 0
        whole = n // _TILE * _TILE if shift == 0 else -shift

        grad_sq = tl.zeros([ROWS], tl.float32)
        dot = tl.zeros([ROWS], tl.float32)
        avg_sq = tl.zeros([ROWS], tl.float32)
        nonzero = tl.zeros([ROWS], tl.float32)
        for i in range(0, whole, _TILE):
            grad_sq, dot, avg_sq, nonzero, sketch = _add_tile(
                g, gbar, i + lanes, None, (start + i) // _TILE,
                grad_sq, dot, avg_sq, nonzero, sketch, SKETCH,
            )  # fmt: skip
        for i in range(whole, n, _TILE):
            at = i + lanes
            grad_sq, dot, avg_sq, nonzero, sketch = _add_tile(
                g, gbar, at, (at >= 0) & (at < n), (start + i) // _TILE,
                grad_sq, dot, avg_sq, nonzero, sketch, SKETCH,
            )  # fmt: skip
        slot_grad_sq += grad_sq.to(tl.float64)
        slot_dot += dot.to(tl.float64)
        slot_avg_sq += avg_sq.to(tl.float64)
        slot_nonzero += nonzero.to(tl.float64)
        count += n

    out = partials + slot * _SUMS
    tl.store(out + 0, tl.sum(slot_grad_sq))
    tl.store(out + 1, tl.sum(slot_dot))
    tl.store(out + 2, tl.sum(slot_avg_sq))
    tl.store(out + 3, tl.sum(slot_nonzero))
    tl.store(out + 4, count.to(tl.float64))
    if SKETCH:
        tl.store(sketches + slot * _TILE + lanes, sketch)


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
        SKETCH=sketches is not None,
        ALIGNED=table.aligned and table.grads_aligned,
        num_warps=8,
    )
