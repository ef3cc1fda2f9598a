"""Averages of the parameters over all tensors of a table; csrc/average.h has the arithmetic."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.table import Column, TensorTable
from yfkernels.ops.triton.launch import kept, launch
from yfkernels.ops.triton.layout import at
from yfkernels.ops.triton.parameter import parameter_columns, read_parameter, rounding_of
from yfkernels.ops.triton.rounding import mixed, round_randomly
from yfkernels.ops.triton.table import DTYPES, are_aligned, column, piece_at, steps
from yfkernels.ops.triton.update import cut

_TILE = 2048
_WARPS = 8


@triton.jit(do_not_specialize=["num_chunks", "coefficients", "settings"])
def average(
    words,
    chunks,
    num_chunks,
    coefficients,
    settings,
    DTYPE: tl.constexpr,
    MASTERED: tl.constexpr,
    AVERAGE: tl.constexpr,
    CHUNK: tl.constexpr,
    PIECE: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
):
    """settings: power and every. Tensors whose turn it is not have no elements here."""
    COLUMNS: tl.constexpr = ("row.param", "row.master", "row.average")
    PIECES: tl.constexpr = (CHUNK + PIECE - 1) // PIECE
    END_TILE: tl.constexpr = THREADS * 4
    lanes = tl.arange(0, TILE)
    end_lanes = tl.arange(0, END_TILE)
    power, every = tl.load(settings), tl.load(settings + 1)
    active = tl.load(coefficients + at("gate.active")) != 0.0
    for piece in range(tl.program_id(0), num_chunks * PIECES if active else 0, tl.num_programs(0)):
        _, row, chunk_first, first, n = piece_at(words, chunks, piece, CHUNK, PIECE)
        step = steps(row)
        turn = (step <= every) | (step.to(tl.int64) % every.to(tl.int64) == 0)
        n = tl.where(turn, n, 0)
        share = every * (power + 1.0) / (step + power)
        begins = share >= 1.0
        weight = tl.minimum(share, 1.0).to(tl.float32)
        element, seed = rounding_of(row, chunk_first, first, step)
        param_columns = parameter_columns(row, first, DTYPE, MASTERED)
        averages = column(row, "row.average", first, AVERAGE)

        whole = tl.where(are_aligned(row, COLUMNS), n // TILE * TILE, 0)
        for RAGGED in tl.static_range(2):
            for i in range(
                whole if RAGGED else 0, n if RAGGED else whole, END_TILE if RAGGED else TILE
            ):
                place = i + (end_lanes if RAGGED else lanes)
                mask = place < n if RAGGED else None
                param = read_parameter(param_columns, place, mask, None)
                old = tl.load(averages + place, mask).to(tl.float32)
                start = tl.where(begins, param, old)
                new = start + weight * (param - start)
                if tl.bfloat16 == AVERAGE:
                    random = mixed((element + place.to(tl.uint32)) ^ (seed ^ 0xFFFFFFFF))
                    tl.store(averages + place, round_randomly(new, random, tl.bfloat16), mask)
                else:
                    tl.store(averages + place, new, mask)


def launch_average(table: TensorTable, coefficients: Tensor, average_of: WeightAverage) -> None:
    """Advances the average of every tensor whose turn it is."""
    piece, programs = cut(table)
    settings = (float(average_of.power), float(average_of.every))
    dtype = average_of.of(torch.float32)
    launch(
        average,
        programs,
        table.device,
        f"averaging {table.dtype} parameters in {dtype}",
        (
            *(table.words, table.chunks, table.num_chunks, coefficients),
            kept(settings, torch.float64, table.device),
        ),
        DTYPE=DTYPES[table.dtype],
        MASTERED=Column.MASTER in table.columns,
        AVERAGE=DTYPES[dtype],
        CHUNK=table.chunk_size,
        PIECE=piece,
        TILE=_TILE,
        THREADS=32 * _WARPS,
        num_warps=_WARPS,
    )
