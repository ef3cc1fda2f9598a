"""How a pass reads and writes a parameter: csrc/cpu/piece.h has the same three ways.

A float32 parameter is just read and written. A half-precision one has a float32 master, or it is
rounded stochastically.
"""

from __future__ import annotations

import triton
import triton.language as tl

from yfkernels.ops.triton.layout import at
from yfkernels.ops.triton.rounding import mixed, round_randomly, round_to, rounding_seed
from yfkernels.ops.triton.table import column


@triton.jit
def parameter_columns(row, first, DTYPE: tl.constexpr, MASTERED: tl.constexpr):
    """The parameter and, if it has one, its master, from element `first` on."""
    param = column(row, "row.param", first, DTYPE)
    if MASTERED:
        return param, column(row, "row.master", first, tl.float32)
    else:
        return (param,)


@triton.jit
def read_parameter(columns, place, mask, other):
    param = tl.load(columns[0] + place, mask, other).to(tl.float32)
    if len(columns) == 2:
        # the master counts, unless somebody has written to the parameter since
        stored = tl.load(columns[1] + place, mask, other)
        untouched = round_to(stored, columns[0].dtype.element_ty).to(tl.float32) == param
        param = tl.where(untouched, stored, param)
    return param


@triton.jit
def write_parameter(columns, place, mask, param, randomness):
    """randomness: of rounding_of(), for the same `first` as the columns."""
    DTYPE: tl.constexpr = columns[0].dtype.element_ty
    if len(columns) == 2:
        tl.store(columns[0] + place, round_to(param, DTYPE), mask)
        tl.store(columns[1] + place, param, mask)
    elif tl.float32 == DTYPE:
        tl.store(columns[0] + place, param, mask)
    else:
        element, seed = randomness
        random = mixed((element + place.to(tl.uint32)) ^ seed)
        tl.store(columns[0] + place, round_randomly(param, random, DTYPE), mask)


@triton.jit
def rounding_of(row, chunk_first, first, step):
    """(element, seed): the lower half of a piece's place in the model, and its chunk's seed."""
    origin = tl.load(row + at("row.origin"))
    return (origin + first).to(tl.uint32), rounding_seed(origin + chunk_first, step)
