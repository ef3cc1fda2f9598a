"""How a kernel reads the tensor table (yfkernels/ops/table.py, csrc/table.h)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from yfkernels.ops.triton.layout import at, is_in_float8, number, size

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def piece_at(words, chunks, index, CHUNK: tl.constexpr, PIECE: tl.constexpr):
    """(tensor, row, chunk_first, first, n) of a piece of a chunk.

    tensor: its index; row: the address of its row. chunk_first, first: the first element of the
    chunk and of the piece. n: elements of the piece; none if the tensor has no gradient.
    """
    PIECES: tl.constexpr = (CHUNK + PIECE - 1) // PIECE
    chunk = chunks + 2 * (index // PIECES)
    tensor = tl.load(chunk)
    row = words + tensor * size("row")
    # a multiple of the chunk length: the compiler has to be told, or it loads 4 bytes at a time
    chunk_first = tl.multiple_of(tl.load(chunk + 1), number("TILE"))
    offset = index % PIECES * PIECE
    end = tl.minimum(tl.load(row + at("row.numel")) - chunk_first, CHUNK)
    n = tl.minimum(tl.maximum(end - offset, 0), PIECE)
    return (
        tensor,
        row,
        chunk_first,
        chunk_first + offset,
        tl.where(has_grad(row), n, 0).to(tl.int32),
    )


@triton.jit
def has_grad(row):
    """Whether the tensor takes part in this step."""
    return tl.load(row + at("row.grad")) != 0


@triton.jit
def group_of(row, coefficients, WORDS: tl.constexpr):
    """The coefficients of the tensor's group."""
    return coefficients + tl.load(row + at("row.group")) * WORDS


@triton.jit
def is_true(number):
    """Whether a number is not 0, as a part of a mask: the interpreter takes none from floats."""
    return tl.where(number != 0.0, 1, 0) != 0


@triton.jit
def column(row, NAME: tl.constexpr, first, DTYPE: tl.constexpr, STATE: tl.constexpr = 0):
    """The address of element `first` of one of the row's tensors; of "row.state" number STATE.

    The compiler is told that tensors begin on 16 bytes. It then gives each thread 16 bytes of a
    tile, and reads and writes them at once where no mask forbids it. A tensor that begins elsewhere
    (are_aligned) must have a mask, which splits every access into elements and leaves everything
    else as it is: the same thread has the same elements, so sums have the same bits.
    """
    tensor = tl.load(row + at(NAME) + STATE).to(tl.pointer_type(DTYPE))
    return tl.multiple_of(tensor, 16) + first


@triton.jit
def are_aligned(row, NAMES: tl.constexpr, STATES: tl.constexpr = 0):
    """Whether these of the row's tensors, and so many states, begin on 16 bytes.

    A tensor that it does not have is at 0.
    """
    places = tl.load(row + at(NAMES[0]))
    for k in tl.static_range(1, len(NAMES)):
        places |= tl.load(row + at(NAMES[k]))
    for k in tl.static_range(STATES):
        places |= tl.load(row + at("row.state") + k)
    return places & 15 == 0


@triton.jit
def state_columns(
    row,
    first,
    STATES: tl.constexpr,
    STORED: tl.constexpr = 0,
):
    """The rule's state columns, from element `first` on; STORED: a Stored of ops/rules.py.

    Codes are uint8, and float8 is int8.
    """
    columns = ()
    for k in tl.static_range(STATES):
        if is_in_float8(STORED) and k == 0:
            columns += (column(row, "row.state", first, tl.int8, k),)  # type: ignore[assignment]
        elif STORED != 0 and k == STATES - 1:
            columns += (column(row, "row.state", first, tl.uint8, k),)  # type: ignore[assignment]
        else:
            columns += (column(row, "row.state", first, tl.float32, k),)  # type: ignore[assignment]
    return columns


@triton.jit
def steps(row):
    """Steps the tensor has taken, or 0 if nobody counts them; float64."""
    place = tl.load(row + at("row.step"))
    count = tl.load(place.to(tl.pointer_type(tl.float32)), mask=place != 0, other=0.0)
    return count.to(tl.float64)
