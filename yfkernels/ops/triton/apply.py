"""YellowFin, apply: one pass over all tensors of a table; the rule is YellowFinApply of rules.h."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.table import Column, TensorTable
from yfkernels.ops.triton.table import (
    DTYPES,
    GRAD,
    GRAD_AVG,
    GROUP,
    MASTER,
    MOMENTUM,
    PARAM,
    chunk_at,
    column,
    elements,
    load,
    round_to,
)
from yfkernels.ops.tuner import COEFFICIENT_FIELDS

_TILE: tl.constexpr = tl.constexpr(2048)
_PIECE: tl.constexpr = tl.constexpr(16384)  # what a program takes at a time
_FIELDS: tl.constexpr = tl.constexpr(len(COEFFICIENT_FIELDS))


@triton.jit
def _coefficient(coefficients, FIELD: tl.constexpr):
    """One number of the rule; a double, because float64 parameters are served from it too."""
    return tl.load(coefficients + FIELD).to(tl.float32)


@triton.jit(do_not_specialize=["num_chunks"])
def yellowfin_apply(
    words,
    chunks,
    num_chunks,
    coefficients,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    AVERAGES: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """A fixed number of programs share the pieces of all chunks; each column is streamed once."""
    PIECES: tl.constexpr = CHUNK // _PIECE
    HALF: tl.constexpr = DTYPE != tl.float32
    lanes = tl.arange(0, _TILE)
    num_pieces = num_chunks * PIECES
    if tl.load(coefficients) == 0.0:
        num_pieces = num_pieces * 0  # a skipped step writes nothing
    for piece in range(tl.program_id(0), num_pieces, tl.num_programs(0)):
        row, first = chunk_at(words, chunks, piece // PIECES)
        first += piece % PIECES * _PIECE
        n = elements(row, first, _PIECE)
        g = column(row, GRAD, DTYPE, first, ALIGNED)
        p = column(row, PARAM, DTYPE, first, ALIGNED)
        v = column(row, MOMENTUM, tl.float32, first, ALIGNED)
        gbar = column(row, GRAD_AVG, tl.float32, first, ALIGNED)
        master = column(row, MASTER, tl.float32, first, ALIGNED)

        rule = coefficients + tl.load(row + GROUP) * _FIELDS
        grad_scale = _coefficient(rule, 1)
        coupled_decay = _coefficient(rule, 2)
        momentum = _coefficient(rule, 3)
        velocity_gain = _coefficient(rule, 4)
        velocity_keep = _coefficient(rule, 5)
        param_keep = _coefficient(rule, 6)
        param_gain = _coefficient(rule, 7)
        average_decay = _coefficient(rule, 8)
        average_gain = _coefficient(rule, 9)

        whole = n // _TILE * _TILE
        for RAGGED in tl.static_range(2):
            for i in range(whole if RAGGED else 0, n if RAGGED else whole, _TILE):
                at = i + lanes
                mask = at < n if RAGGED else None
                grad = load(g, at, mask)
                param = load(p, at, mask)
                velocity = load(v, at, mask)
                if HALF:
                    # the master counts, unless somebody wrote to the parameter since
                    exact = load(master, at, mask)
                    untouched = round_to(exact, DTYPE).to(tl.float32) == param
                    param = tl.where(untouched, exact, param)

                moved = grad_scale * grad + coupled_decay * param
                moved = momentum * velocity + velocity_gain * moved
                param = param_keep * param + param_gain * moved

                tl.store(p + at, round_to(param, DTYPE), mask)
                tl.store(v + at, velocity_keep * moved, mask)
                if HALF:
                    tl.store(master + at, param, mask)
                if AVERAGES:
                    average = average_decay * load(gbar, at, mask) + average_gain * grad
                    tl.store(gbar + at, average, mask)


@cache
def _programs(device: torch.device) -> int:
    """As many as run at once; a handful under the interpreter, which runs them in turn."""
    if device.type == "cpu":
        return 4
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count


def launch(table: TensorTable, coefficients: Tensor) -> None:
    """Advances every tensor of the table that has a gradient."""
    pieces = table.num_chunks * (table.chunk_size // _PIECE.value)
    yellowfin_apply[(min(pieces, _programs(table.device)),)](
        table.words,
        table.chunks,
        table.num_chunks,
        coefficients,
        DTYPE=DTYPES[table.dtype],
        CHUNK=table.chunk_size,
        AVERAGES=Column.GRAD_AVG in table.rows[0].columns,
        ALIGNED=table.aligned and table.grads_aligned,
        num_warps=8,
    )
