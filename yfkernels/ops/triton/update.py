"""The writing passes over all tensors of a table, each compiled with a rule of rules.py."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.rules import Rule
from yfkernels.ops.table import Column, TensorTable
from yfkernels.ops.triton.launch import launch
from yfkernels.ops.triton.layout import at, is_in_float8, is_moments, number
from yfkernels.ops.triton.move_sums import add_rounds, add_tile, end_piece, end_table, no_sums
from yfkernels.ops.triton.parameter import (
    parameter_columns,
    read_parameter,
    rounding_of,
    write_parameter,
)
from yfkernels.ops.triton.reduce import is_last, strided_total
from yfkernels.ops.triton.rounding import (
    code_of,
    float8_of,
    float_of,
    float_of_float8,
    inverse_unit_of,
    unit_of,
)
from yfkernels.ops.triton.rules import FORMULAS
from yfkernels.ops.triton.table import (
    DTYPES,
    are_aligned,
    column,
    group_of,
    has_grad,
    piece_at,
    state_columns,
    steps,
)

_TILE = 2048
_WARPS = 8
_PIECE = 16384  # of a chunk, where chunks are too few to share out evenly


@triton.jit
def _load_states(columns, place, mask, other, STORED: tl.constexpr):
    states = ()
    for k in tl.static_range(len(columns)):
        if columns[k].dtype.element_ty == tl.int8:
            bits = tl.load(columns[k] + place, mask).to(tl.uint8, bitcast=True)
            states += (float_of_float8(bits),)  # type: ignore[assignment]
        elif columns[k].dtype.element_ty == tl.uint8:
            codes = tl.load(columns[k] + place, mask)
            states += (float_of(codes, STORED),)  # type: ignore[assignment]
        else:
            states += (tl.load(columns[k] + place, mask, other),)  # type: ignore[assignment]
    if is_moments(STORED):
        first, last = states  # type: ignore[misc]
        states = (first * unit_of(last), last)  # type: ignore[assignment]
    return states


@triton.jit
def _store_states(columns, place, mask, states, randomness, STORED: tl.constexpr):
    """randomness: as write_parameter has it, of states in eight bits."""
    if STORED == 0:
        for k in tl.static_range(len(columns)):
            tl.store(columns[k] + place, states[k], mask)
    else:
        first, last = states
        element, seed = randomness
        # evenly spread over the elements, as in csrc/codes.h
        random = (element + place.to(tl.uint32) + seed) * number("WEYL")
        codes = code_of(last, random, STORED)
        tl.store(columns[1] + place, codes, mask)
        if is_moments(STORED):
            first *= inverse_unit_of(float_of(codes, STORED))
        if is_in_float8(STORED):
            first = float8_of(first, random).to(tl.int8, bitcast=True)
        tl.store(columns[0] + place, first, mask)


@triton.jit
def _count_step(row):
    place = tl.load(row + at("row.step"))
    tl.store(place.to(tl.pointer_type(tl.float32)), (steps(row) + 1.0).to(tl.float32), place != 0)


@triton.jit(do_not_specialize=["num_chunks", "coefficients", "move_sums", "ticket"])
def update(
    words,
    chunks,
    num_chunks,
    coefficients,
    piece_move_sums,
    move_sums,
    tickets,
    ticket,
    NUMBERS: tl.constexpr,
    DIRECTION: tl.constexpr,
    MOVE_SUMS_OF: tl.constexpr,
    MOVE_SUMS: tl.constexpr,
    STATES: tl.constexpr,
    STORED: tl.constexpr,
    WORDS: tl.constexpr,
    DTYPE: tl.constexpr,
    MASTERED: tl.constexpr,
    CHUNK: tl.constexpr,
    PIECE: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
):
    """All at once. A fixed number of programs share the pieces of all chunks.

    MOVE_SUMS_OF makes an element's shares of MOVE_SUMS sums. Without it piece_move_sums, move_sums
    and ticket are None.
    """
    COLUMNS: tl.constexpr = ("row.grad", "row.param", "row.master")
    PIECES: tl.constexpr = (CHUNK + PIECE - 1) // PIECE
    END_TILE: tl.constexpr = THREADS * 4
    lanes = tl.arange(0, TILE)
    end_lanes = tl.arange(0, END_TILE)
    active = tl.load(coefficients + at("gate.active")) != 0.0
    num_pieces = num_chunks * PIECES if active else 0  # a skipped step writes nothing
    for piece in range(tl.program_id(0), num_pieces, tl.num_programs(0)):
        tensor, row, chunk_first, first, n = piece_at(words, chunks, piece, CHUNK, PIECE)
        step = steps(row) + 1.0
        move, numbers = NUMBERS(group_of(row, coefficients, WORDS), step, 1.0)
        keep, gain = move

        # Whole tiles without a mask, so that every access is 16 bytes wide; then the ragged end. Of
        # a tensor that is not aligned all is ragged, but where there are sums to be the same.
        whole = n // TILE * TILE
        wide = tl.where(are_aligned(row, COLUMNS, STATES), whole, 0)
        if MOVE_SUMS > 0:
            totals = no_sums(tl.full([], 0.0, tl.float64), MOVE_SUMS)
        else:
            whole = wide
        for RAGGED in tl.static_range(2):
            for MASKED in tl.static_range(RAGGED, 2 if MOVE_SUMS > 0 else RAGGED + 1):
                if MOVE_SUMS > 0:
                    zeros = tl.full([(END_TILE if RAGGED else TILE) // 4], 0.0, tl.float32)
                    sums = no_sums(zeros, MOVE_SUMS)
                begin = whole if RAGGED else (wide if MASKED else 0)
                end = n if RAGGED else (whole if MASKED else wide)
                # where all this is does not stay in registers from loop to loop
                _, row, chunk_first, first, n = piece_at(words, chunks, piece, CHUNK, PIECE)
                g = column(row, "row.grad", first, DTYPE)
                param_columns = parameter_columns(row, first, DTYPE, MASTERED)
                columns = state_columns(row, first, STATES, STORED)
                randomness = rounding_of(row, chunk_first, first, step)
                for i in range(begin, end, END_TILE if RAGGED else TILE):
                    place = i + (end_lanes if RAGGED else lanes)
                    mask = place < n if MASKED else None
                    grad = tl.load(g + place, mask).to(tl.float32)
                    param = read_parameter(param_columns, place, mask, None)
                    states = _load_states(columns, place, mask, None, STORED)
                    u, states = DIRECTION(numbers, grad, param, states)
                    moved = keep * param + gain * u
                    write_parameter(param_columns, place, mask, moved, randomness)
                    _store_states(columns, place, mask, states, randomness, STORED)
                    if MOVE_SUMS > 0:
                        shares = MOVE_SUMS_OF(numbers, grad, param, moved, states)
                        sums = add_tile(sums, shares, mask if RAGGED else None)
                if MOVE_SUMS > 0:
                    totals = add_rounds(totals, sums)
        if MOVE_SUMS > 0:
            end_piece(piece_move_sums, piece, totals)

        # where all this is does not stay in registers over the loops
        tensor, row, _, _, _ = piece_at(words, chunks, piece, CHUNK, PIECE)
        if has_grad(row) & (tl.load(row + at("row.step")) != 0):
            pieces = tl.cdiv(tl.load(row + at("row.numel")), CHUNK) * PIECES
            if is_last(tickets + tensor, pieces):
                _count_step(row)

    if MOVE_SUMS > 0:  # noqa: SIM102  decided when this is compiled
        if active:
            end_table(piece_move_sums, num_pieces, ticket, move_sums, MOVE_SUMS)


@triton.jit(do_not_specialize=["num_chunks", "coefficients"])
def update_state(
    words,
    chunks,
    num_chunks,
    coefficients,
    chunk_norms,
    norms,
    tickets,
    NUMBERS: tl.constexpr,
    DIRECTION: tl.constexpr,
    STATES: tl.constexpr,
    STORED: tl.constexpr,
    WORDS: tl.constexpr,
    DTYPE: tl.constexpr,
    MASTERED: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
):
    """The state, and the norms. Chunks stay whole: sums must not depend on the device."""
    COLUMNS: tl.constexpr = ("row.grad", "row.param", "row.master")
    END_TILE: tl.constexpr = THREADS * 4
    threads = tl.arange(0, THREADS)[:, None]
    lanes = threads * (TILE // THREADS) + tl.arange(0, TILE // THREADS)[None, :]
    end_lanes = threads * 4 + tl.arange(0, 4)[None, :]
    active = tl.load(coefficients + at("gate.active")) != 0.0
    for chunk in range(tl.program_id(0), num_chunks if active else 0, tl.num_programs(0)):
        tensor, row, chunk_first, first, n = piece_at(words, chunks, chunk, CHUNK, CHUNK)
        step = steps(row) + 1.0
        numbers = NUMBERS(group_of(row, coefficients, WORDS), step, 1.0)[1]

        # float32 over a chunk, float64 beyond; the tiles as in advance with sums
        p_sq = tl.full([THREADS], 0.0, tl.float32)
        u_sq = tl.full([THREADS], 0.0, tl.float32)
        whole = n // TILE * TILE
        wide = tl.where(are_aligned(row, COLUMNS, STATES), whole, 0)
        for RAGGED in tl.static_range(2):
            for MASKED in tl.static_range(RAGGED, 2):
                begin = whole if RAGGED else (wide if MASKED else 0)
                end = n if RAGGED else (whole if MASKED else wide)
                # where all this is does not stay in registers from loop to loop
                _, row, chunk_first, first, n = piece_at(words, chunks, chunk, CHUNK, CHUNK)
                g = column(row, "row.grad", first, DTYPE)
                param_columns = parameter_columns(row, first, DTYPE, MASTERED)
                columns = state_columns(row, first, STATES, STORED)
                randomness = rounding_of(row, chunk_first, first, step) if STORED != 0 else None
                for i in range(begin, end, END_TILE if RAGGED else TILE):
                    place = i + (end_lanes if RAGGED else lanes)
                    mask = place < n if MASKED else None
                    other = 0.0 if RAGGED else None
                    grad = tl.load(g + place, mask, other).to(tl.float32)
                    param = read_parameter(param_columns, place, mask, other)
                    states = _load_states(columns, place, mask, other, STORED)
                    u, states = DIRECTION(numbers, grad, param, states)
                    _store_states(columns, place, mask, states, randomness, STORED)
                    p_sq += tl.sum(param * param, axis=1)
                    u_sq += tl.sum(tl.where(mask, u * u, 0.0) if RAGGED else u * u, axis=1)

        # where all this is does not stay in registers over the loops
        tensor, row, _, first, _ = piece_at(words, chunks, chunk, CHUNK, CHUNK)
        if has_grad(row):
            tl.store(chunk_norms + 2 * chunk, tl.sum(p_sq.to(tl.float64)))
            tl.store(chunk_norms + 2 * chunk + 1, tl.sum(u_sq.to(tl.float64)))
            num_parts = tl.cdiv(tl.load(row + at("row.numel")), CHUNK)
            if is_last(tickets + tensor, num_parts):
                parts = chunk_norms + 2 * (chunk - first // CHUNK)
                tl.store(norms + 2 * tensor, strided_total(parts, num_parts, 2))
                tl.store(norms + 2 * tensor + 1, strided_total(parts + 1, num_parts, 2))
                _count_step(row)


@triton.jit(do_not_specialize=["num_chunks", "coefficients"])
def apply(
    words,
    chunks,
    num_chunks,
    coefficients,
    norms,
    NUMBERS: tl.constexpr,
    RECALLED: tl.constexpr,
    TRUST_RATIO: tl.constexpr,
    STATES: tl.constexpr,
    STORED: tl.constexpr,
    WORDS: tl.constexpr,
    DTYPE: tl.constexpr,
    MASTERED: tl.constexpr,
    CHUNK: tl.constexpr,
    PIECE: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
):
    """The parameters, after direct."""
    COLUMNS: tl.constexpr = ("row.param", "row.master")
    PIECES: tl.constexpr = (CHUNK + PIECE - 1) // PIECE
    END_TILE: tl.constexpr = THREADS * 4
    lanes = tl.arange(0, TILE)
    end_lanes = tl.arange(0, END_TILE)
    active = tl.load(coefficients + at("gate.active")) != 0.0
    num_pieces = num_chunks * PIECES if active else 0
    for turn in range(tl.program_id(0), num_pieces, tl.num_programs(0)):
        piece = num_pieces - 1 - turn  # what direct has written last may still be in the cache
        tensor, row, chunk_first, first, n = piece_at(words, chunks, piece, CHUNK, PIECE)
        step = steps(row)  # counted by now
        group = group_of(row, coefficients, WORDS)
        p_sq = tl.load(norms + 2 * tensor)
        u_sq = tl.load(norms + 2 * tensor + 1)
        move, numbers = NUMBERS(group, step, TRUST_RATIO(group, p_sq, u_sq))
        keep, gain = move
        randomness = rounding_of(row, chunk_first, first, step)
        param_columns = parameter_columns(row, first, DTYPE, MASTERED)
        columns = state_columns(row, first, STATES, STORED)

        whole = tl.where(are_aligned(row, COLUMNS, STATES), n // TILE * TILE, 0)
        for RAGGED in tl.static_range(2):
            for i in range(
                whole if RAGGED else 0, n if RAGGED else whole, END_TILE if RAGGED else TILE
            ):
                place = i + (end_lanes if RAGGED else lanes)
                mask = place < n if RAGGED else None
                param = read_parameter(param_columns, place, mask, None)
                states = _load_states(columns, place, mask, None, STORED)
                u = RECALLED(numbers, param, states)
                param = keep * param + gain * u
                write_parameter(param_columns, place, mask, param, randomness)


@cache
def most_programs(device: torch.device) -> int:
    """Far more than run at once, so that they end together; few for the interpreter."""
    if device.type == "cpu":
        return 4
    return 64 * torch.cuda.get_device_properties(device).multi_processor_count


def cut(table: TensorTable, evenly: bool = False) -> tuple[int, int]:
    """(elements of a piece, programs) for a pass whose chunks may be cut up.

    evenly: whatever the device, because pieces are summed.
    """
    most = most_programs(table.device)
    if table.num_chunks >= most and not evenly:
        return table.chunk_size, most
    piece = min(table.chunk_size, _PIECE)
    return piece, min(table.num_chunks * -(-table.chunk_size // piece), most)


def _is_half(table: TensorTable) -> bool:
    return table.dtype.itemsize == 2


def _structure(rule: Rule, table: TensorTable, registers: int | None) -> dict[str, Any]:
    """What all passes are compiled for.

    registers: of a thread, at most. With 80 three blocks fit a multiprocessor, with 128 two; left
    to itself, the compiler takes more or spills. Where it does neither, None.
    """
    return {
        "NUMBERS": FORMULAS[rule.name].numbers,
        "STATES": rule.states,
        "STORED": int(rule.stored),
        "WORDS": len(rule.fields),
        "DTYPE": DTYPES[table.dtype],
        "MASTERED": Column.MASTER in table.columns,
        "CHUNK": table.chunk_size,
        "TILE": _TILE,
        "THREADS": 32 * _WARPS,
        "num_warps": _WARPS,
        "maxnreg": registers,
    }


def _purpose(rule: Rule, table: TensorTable) -> str:
    return f"moving {table.dtype} parameters by the rule {rule.name!r}"


def _of_table(table: TensorTable) -> tuple[Tensor, Tensor, int]:
    return table.words, table.chunks, table.num_chunks


def launch_update(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """Advances every tensor of the table that has a gradient."""
    formula = FORMULAS[rule.name]
    piece, programs = cut(table, evenly=rule.move_sums > 0)
    sums = (table.chunk_sums, table.move_sums) if rule.move_sums else (None, None)
    registers = 80 if _is_half(table) or rule.stored.coded else None
    ticket = table.tickets[-1:] if rule.move_sums else None
    launch(
        update,
        programs,
        table.device,
        _purpose(rule, table),
        (*_of_table(table), coefficients, *sums, table.tickets, ticket),
        DIRECTION=formula.direction,
        MOVE_SUMS_OF=formula.move_sums,
        MOVE_SUMS=rule.move_sums,
        PIECE=piece,
        **_structure(rule, table, 128 if rule.move_sums else registers),
    )


def launch_update_state(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """The first of two passes."""
    launch(
        update_state,
        min(table.num_chunks, most_programs(table.device)),
        table.device,
        _purpose(rule, table),
        (*_of_table(table), coefficients, table.chunk_sums, table.norms, table.tickets),
        DIRECTION=FORMULAS[rule.name].direction,
        **_structure(rule, table, 128),
    )


def launch_apply(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """The second of two passes."""
    piece, programs = cut(table)
    launch(
        apply,
        programs,
        table.device,
        _purpose(rule, table),
        (*_of_table(table), coefficients, table.norms),
        RECALLED=FORMULAS[rule.name].recalled,
        TRUST_RATIO=FORMULAS[rule.name].trust_ratio,
        PIECE=piece,
        **_structure(rule, table, 80 if _is_half(table) else None),
    )
