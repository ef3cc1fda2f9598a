"""YellowFin, apply: one pass over all tensors of a table; the rule is YellowFinApply of rules.h."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.table import Column, TensorTable
from yfkernels.ops.triton.layout import at, size
from yfkernels.ops.triton.table import DTYPES, chunk_at, column, elements, round_to


@triton.jit(do_not_specialize=["num_chunks"])
def yellowfin_apply(
    words,
    chunks,
    num_chunks,
    coefficients,
    DTYPE: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    AVERAGES: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """A fixed number of programs share the pieces of all chunks; each column is streamed once."""
    TILE: tl.constexpr = 2048
    HALF: tl.constexpr = DTYPE.primitive_bitwidth == 16
    lanes = tl.arange(0, TILE)
    active = tl.load(coefficients + at("coefficients.active")) != 0.0
    num_pieces = num_chunks * PIECES if active else 0  # a skipped step writes nothing
    for piece in range(tl.program_id(0), num_pieces, tl.num_programs(0)):
        row, first = chunk_at(words, chunks, piece // PIECES)
        first += piece % PIECES * PIECE
        n = elements(row, first, PIECE)
        g = column(row, "row.grad", first, DTYPE, ALIGNED)
        p = column(row, "row.param", first, DTYPE, ALIGNED)
        v = column(row, "row.momentum", first, tl.float32, ALIGNED)
        if AVERAGES:
            gbar = column(row, "row.grad_avg", first, tl.float32, ALIGNED)
        if HALF:
            master = column(row, "row.master", first, tl.float32, ALIGNED)

        # doubles, because float64 parameters are served from the same buffer
        rule = coefficients + tl.load(row + at("row.group")) * size("coefficients")
        grad_scale = tl.load(rule + at("coefficients.grad_scale")).to(tl.float32)
        coupled_decay = tl.load(rule + at("coefficients.coupled_decay")).to(tl.float32)
        momentum = tl.load(rule + at("coefficients.momentum")).to(tl.float32)
        velocity_gain = tl.load(rule + at("coefficients.velocity_gain")).to(tl.float32)
        velocity_keep = tl.load(rule + at("coefficients.velocity_keep")).to(tl.float32)
        param_keep = tl.load(rule + at("coefficients.param_keep")).to(tl.float32)
        param_gain = tl.load(rule + at("coefficients.param_gain")).to(tl.float32)
        average_decay = tl.load(rule + at("coefficients.average_decay")).to(tl.float32)
        average_gain = tl.load(rule + at("coefficients.average_gain")).to(tl.float32)

        # whole tiles without a mask, so that every access is 16 bytes wide; then the ragged end
        whole = n // TILE * TILE
        for RAGGED in tl.static_range(2):
            for i in range(whole if RAGGED else 0, n if RAGGED else whole, TILE):
                place = i + lanes
                mask = place < n if RAGGED else None
                grad = tl.load(g + place, mask).to(tl.float32)
                param = tl.load(p + place, mask).to(tl.float32)
                velocity = tl.load(v + place, mask)
                if AVERAGES:
                    average = tl.load(gbar + place, mask)
                if HALF:
                    # the master counts, unless somebody has written to the parameter since
                    stored = tl.load(master + place, mask)
                    untouched = round_to(stored, DTYPE).to(tl.float32) == param
                    param = tl.where(untouched, stored, param)

                d = grad_scale * grad + coupled_decay * param
                velocity = momentum * velocity + velocity_gain * d
                param = param_keep * param + param_gain * velocity

                rounded = round_to(param, DTYPE) if HALF else param
                tl.store(p + place, rounded, mask)
                tl.store(v + place, velocity_keep * velocity, mask)
                if HALF:
                    tl.store(master + place, param, mask)
                if AVERAGES:
                    average = average_decay * average + average_gain * grad
                    tl.store(gbar + place, average, mask)


@cache
def _programs(device: torch.device) -> int:
    """Far more than run at once, so that they end together; few for the interpreter."""
    if device.type == "cpu":
        return 4
    return 64 * torch.cuda.get_device_properties(device).multi_processor_count


def launch(table: TensorTable, coefficients: Tensor) -> None:
    """Advances every tensor of the table that has a gradient."""
    most = _programs(table.device)
    # chunks are cut up where there are too few of them to share out evenly
    pieces = table.chunk_size // 16384 if table.num_chunks < most else 1
    programs = min(table.num_chunks * pieces, most)
    yellowfin_apply[(programs,)](
        table.words,
        table.chunks,
        table.num_chunks,
        coefficients,
        DTYPE=DTYPES[table.dtype],
        PIECES=pieces,
        PIECE=table.chunk_size // pieces,
        AVERAGES=Column.GRAD_AVG in table.rows[0].columns,
        ALIGNED=table.aligned,
        num_warps=8,
    )
