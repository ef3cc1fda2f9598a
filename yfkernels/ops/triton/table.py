"""How a kernel reads the tensor table (yfkernels/ops/table.py, csrc/table.h)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from yfkernels.ops.triton.layout import at, size

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def chunk_at(words, chunks, index):
    """(row, first): the address of a chunk's row in the table, and the chunk's first element."""
    row = words + tl.load(chunks + 2 * index) * size("row")
    # a multiple of the chunk length: the compiler has to be told, or it loads 4 bytes at a time
    return row, tl.multiple_of(tl.load(chunks + 2 * index + 1), 4096)


@triton.jit
def elements(row, first, most):
    """How many elements there are from `first` on, up to `most`; none without a gradient."""
    left = tl.minimum(tl.load(row + at("row.numel")) - first, most)
    return tl.where(tl.load(row + at("row.grad")) == 0, 0, tl.maximum(left, 0)).to(tl.int32)


@triton.jit
def column(row, NAME: tl.constexpr, first, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The address of element `first` of one of the row's tensors."""
    tensor = tl.load(row + at(NAME)).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        tensor = tl.multiple_of(tensor, 16)
    return tensor + first


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """float32 rounded to nearest even. Spelt out for bfloat16, which the interpreter truncates."""
    if DTYPE.is_bf16():
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(x == x, rounded, (bits >> 16) | 0x40)
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)
