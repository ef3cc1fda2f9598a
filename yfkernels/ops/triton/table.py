"""How a kernel reads the tensor table (yfkernels/ops/table.py, csrc/table.h)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from yfkernels.ops.table import COLUMNS, ROW_WORDS, Column

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

GRAD: tl.constexpr = tl.constexpr(int(Column.GRAD))
PARAM: tl.constexpr = tl.constexpr(int(Column.PARAM))
MOMENTUM: tl.constexpr = tl.constexpr(int(Column.MOMENTUM))
GRAD_AVG: tl.constexpr = tl.constexpr(int(Column.GRAD_AVG))
MASTER: tl.constexpr = tl.constexpr(int(Column.MASTER))

_ROW_WORDS: tl.constexpr = tl.constexpr(ROW_WORDS)
GROUP: tl.constexpr = tl.constexpr(1)
ORIGIN: tl.constexpr = tl.constexpr(2)
_HEAD: tl.constexpr = tl.constexpr(ROW_WORDS - COLUMNS)


@triton.jit
def chunk_at(words, chunks, index):
    """(row, first): the address of a chunk's row in the table, and its first element."""
    row = words + tl.load(chunks + 2 * index) * _ROW_WORDS
    # a multiple of the chunk length: the compiler has to be told, or it loads 4 bytes at a time
    return row, tl.multiple_of(tl.load(chunks + 2 * index + 1), 4096)


@triton.jit
def elements(row, first, LENGTH: tl.constexpr):
    """How many of the LENGTH elements from `first` on the row has; none without a gradient."""
    left = tl.minimum(tl.load(row) - first, LENGTH)
    return tl.where(tl.load(row + _HEAD + GRAD) != 0, tl.maximum(left, 0), 0).to(tl.int32)


@triton.jit
def column(row, INDEX: tl.constexpr, DTYPE: tl.constexpr, first, ALIGNED: tl.constexpr):
    """The address of element `first` of one of the row's tensors."""
    base = tl.load(row + _HEAD + INDEX).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        base = tl.multiple_of(base, 16)
    return base + first


@triton.jit
def load(pointer, offsets, mask):
    """A tile as float32. mask: None for all of it; elements outside are zero."""
    if mask is None:
        return tl.load(pointer + offsets).to(tl.float32)
    else:
        return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """float32 rounded to nearest even. Spelt out for bfloat16: the interpreter would truncate."""
    if DTYPE == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(x == x, rounded, (bits >> 16) | 0x40)
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)
