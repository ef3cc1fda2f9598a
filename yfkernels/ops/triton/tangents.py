"""Tangents over all tensors of a table: two passes, each compiled with a family of families.py."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.table import TensorTable
from yfkernels.ops.tangents import Family
from yfkernels.ops.triton.families import STEPS
from yfkernels.ops.triton.launch import launch
from yfkernels.ops.triton.layout import at
from yfkernels.ops.triton.table import (
    are_aligned,
    column,
    group_of,
    is_true,
    piece_at,
    state_columns,
)
from yfkernels.ops.triton.update import cut

_TILE = 2048
_WARPS = 8


@triton.jit
def _load(columns, place, mask, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """Elements of COUNT of the columns, from number FIRST on."""
    values = ()
    for k in tl.static_range(FIRST, FIRST + COUNT):
        values += (tl.load(columns[k] + place, mask),)  # type: ignore[assignment]
    return values


@triton.jit(do_not_specialize=["num_chunks", "coefficients"])
def advance(
    words,
    chunks,
    num_chunks,
    coefficients,
    NUMBERS: tl.constexpr,
    ADVANCE: tl.constexpr,
    SLOTS: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
    PIECE: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
):
    """Z, and B where it is kept. A fixed number of programs share the pieces of all chunks."""
    COLUMNS: tl.constexpr = ("row.grad", "row.param")
    STATES: tl.constexpr = 2 + 2 * SLOTS  # the probe, the slots, Z
    PIECES: tl.constexpr = (CHUNK + PIECE - 1) // PIECE
    END_TILE: tl.constexpr = THREADS * 4
    lanes = tl.arange(0, TILE)
    end_lanes = tl.arange(0, END_TILE)
    for piece in range(tl.program_id(0), num_chunks * PIECES, tl.num_programs(0)):
        _, row, _, first, n = piece_at(words, chunks, piece, CHUNK, PIECE)
        group = group_of(row, coefficients, WORDS)
        numbers = NUMBERS(group)
        keeps_own = is_true(tl.load(group + at("tangents.keeps_own")))
        g = column(row, "row.grad", first, tl.float32)
        w = column(row, "row.param", first, tl.float32)
        columns = state_columns(row, first, STATES)

        # whole tiles without a mask but that of B; then the ragged end
        whole = tl.where(are_aligned(row, COLUMNS, STATES), n // TILE * TILE, 0)
        for RAGGED in tl.static_range(2):
            for i in range(
                whole if RAGGED else 0, n if RAGGED else whole, END_TILE if RAGGED else TILE
            ):
                place = i + (end_lanes if RAGGED else lanes)
                mask = place < n if RAGGED else None
                grad = tl.load(g + place, mask)
                param = tl.load(w + place, mask)
                h = tl.load(columns[0] + place, mask)
                slots = _load(columns, place, mask, 1, SLOTS)
                z = _load(columns, place, mask, 1 + SLOTS, 1 + SLOTS)
                own, z = ADVANCE(numbers, grad, param, h, slots, z)
                for k in tl.static_range(1 + SLOTS):
                    tl.store(columns[1 + SLOTS + k] + place, z[k], mask)
                tl.store(columns[0] + place, own, keeps_own & mask if RAGGED else keeps_own)


@triton.jit(do_not_specialize=["num_chunks", "coefficients"])
def own(
    words,
    chunks,
    num_chunks,
    coefficients,
    NUMBERS: tl.constexpr,
    OWN: tl.constexpr,
    SLOTS: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
    PIECE: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
):
    """B, in the place of Zw."""
    COLUMNS: tl.constexpr = ("row.grad", "row.param")
    STATES: tl.constexpr = 2 + SLOTS  # with the probe's place, which is not looked at
    PIECES: tl.constexpr = (CHUNK + PIECE - 1) // PIECE
    END_TILE: tl.constexpr = THREADS * 4
    lanes = tl.arange(0, TILE)
    end_lanes = tl.arange(0, END_TILE)
    for piece in range(tl.program_id(0), num_chunks * PIECES, tl.num_programs(0)):
        _, row, _, first, n = piece_at(words, chunks, piece, CHUNK, PIECE)
        numbers = NUMBERS(group_of(row, coefficients, WORDS))
        g = column(row, "row.grad", first, tl.float32)
        w = column(row, "row.param", first, tl.float32)
        columns = state_columns(row, first, STATES)

        whole = tl.where(are_aligned(row, COLUMNS, STATES), n // TILE * TILE, 0)
        for RAGGED in tl.static_range(2):
            for i in range(
                whole if RAGGED else 0, n if RAGGED else whole, END_TILE if RAGGED else TILE
            ):
                place = i + (end_lanes if RAGGED else lanes)
                mask = place < n if RAGGED else None
                grad = tl.load(g + place, mask)
                param = tl.load(w + place, mask)
                slots = _load(columns, place, mask, 1, SLOTS)
                tl.store(columns[1 + SLOTS] + place, OWN(numbers, grad, param, slots), mask)


def _structure(family: Family, table: TensorTable) -> dict[str, Any]:
    """What both passes are compiled for."""
    return {
        "NUMBERS": STEPS[family.name].numbers,
        "SLOTS": len(family.slots),
        "WORDS": len(family.fields),
        "CHUNK": table.chunk_size,
        "TILE": _TILE,
        "THREADS": 32 * _WARPS,
        "num_warps": _WARPS,
    }


def launch_advance(family: Family, table: TensorTable, coefficients: Tensor) -> None:
    """Advances the tangents of every tensor of the table that has a gradient."""
    piece, programs = cut(table)
    launch(
        advance,
        programs,
        table.device,
        f"advancing tangents of the family {family.name!r}",
        (table.words, table.chunks, table.num_chunks, coefficients),
        ADVANCE=STEPS[family.name].advance,
        PIECE=piece,
        **_structure(family, table),
    )


def launch_own(family: Family, table: TensorTable, coefficients: Tensor) -> None:
    """The step's own derivative of every tensor of the table that has a gradient."""
    piece, programs = cut(table)
    launch(
        own,
        programs,
        table.device,
        f"deriving steps of the family {family.name!r}",
        (table.words, table.chunks, table.num_chunks, coefficients),
        OWN=STEPS[family.name].own,
        PIECE=piece,
        **_structure(family, table),
    )
