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
    store,
)
from yfkernels.ops.tuner import COEFFICIENT_FIELDS

_PIECE = 16384  # elements a program takes at a time: a fine grain evens out the programs' ends
_TILE: tl.constexpr = tl.constexpr(2048)
_FIELDS: tl.constexpr = tl.constexpr(len(COEFFICIENT_FIELDS))


@triton.jit
def _coefficient(coefficients, FIELD: tl.constexpr):
    # float64, because the same buffer also serves float64 parameters
    return tl.load(coefficients + FIELD).to(tl.float32)


@triton.jit
def _load_param(p, master, at, mask, DTYPE: tl.constexpr):
    """A half-precision parameter's master counts, unless somebody wrote to the parameter since."""
    param = load(p, at, mask)
    if DTYPE == tl.float32:
        return param
    else:
        exact = load(master, at, mask)
        return tl.where(round_to(exact, DTYPE).to(tl.float32) == param, exact, param)


@triton.jit
def _apply_tile(row, first, i, n, at, mask):
    pass


@triton.jit(do_not_specialize=["num_chunks"])
def yellowfin_apply(
    words,
    chunks,
    num_chunks,
    coefficients,
    DTYPE: tl.constexpr,
    CHUNK: tl.constexpr,
    PIECE: tl.constexpr,
    AVERAGES: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """A fixed number of programs share the pieces of all chunks."""
    PIECES: tl.constexpr = CHUNK // PIECE
    lanes = tl.arange(0, _TILE)
    if tl.load(coefficients) != 0.0:
        for index in range(tl.program_id(0).to(tl.int64), num_chunks * PIECES, tl.num_programs(0)):
            row, first = chunk_at(words, chunks, index // PIECES)
            first += index % PIECES * PIECE
