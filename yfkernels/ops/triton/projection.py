"""Sums of tangents against a gradient, over every tensor of a table (csrc/tangents.h)."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.table import Column, TensorTable
from yfkernels.ops.tangents import Projection
from yfkernels.ops.triton.families import quotient
from yfkernels.ops.triton.launch import launch
from yfkernels.ops.triton.layout import at, size
from yfkernels.ops.triton.reduce import is_last, strided_total
from yfkernels.ops.triton.table import are_aligned, column, group_of, is_true, piece_at
from yfkernels.ops.triton.update import most_programs

_TILE = 2048
_WARPS = 8
_NOWHERE = -1


@triton.jit
def _number(group, FIELD: tl.constexpr):
    return tl.load(group + at(FIELD)).to(tl.float32)


@triton.jit
def _direction(columns, averages, place, mask, other):
    """x of B = scale x + decay w."""
    x = tl.load(columns[0] + place, mask, other)
    if len(columns) == 2:
        averaged1, averaged2, eps = averages
        second = tl.load(columns[1] + place, mask, other)
        x = quotient(averaged1 * x, eps + tl.sqrt(averaged2 * second))
    return x


@triton.jit
def _columns_from(row, first, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """States of the row, from number FIRST on."""
    columns = ()
    for k in tl.static_range(FIRST, FIRST + COUNT):
        columns += (column(row, "row.state", first, tl.float32, k),)  # type: ignore[assignment]
    return columns


@triton.jit(do_not_specialize=["num_chunks", "coefficients", "sums"])
def project(
    words,
    chunks,
    num_chunks,
    coefficients,
    chunk_sums,
    sums,
    tickets,
    OWN: tl.constexpr,
    MOMENTS: tl.constexpr,
    TANGENT: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    THREADS: tl.constexpr,
):
    """Chunks stay whole: sums must not depend on the device.

    OWN and TANGENT are numbers of states, -1 for none. MOMENTS: whether x takes two columns.
    """
    SUMS: tl.constexpr = size("projected")
    END_TILE: tl.constexpr = THREADS * 4
    threads = tl.arange(0, THREADS)[:, None]
    lanes = threads * (TILE // THREADS) + tl.arange(0, TILE // THREADS)[None, :]
    end_lanes = threads * 4 + tl.arange(0, 4)[None, :]
    for chunk in range(tl.program_id(0), num_chunks, tl.num_programs(0)):
        tensor, row, _, first, n = piece_at(words, chunks, chunk, CHUNK, CHUNK)
        group = group_of(row, coefficients, size("projection"))
        scale = _number(group, "projection.scale")
        decay = _number(group, "projection.decay")
        averages = (
            _number(group, "projection.averaged1"),
            _number(group, "projection.averaged2"),
            _number(group, "projection.eps"),
        )

        # float32 over a chunk, float64 beyond; in tiles as update_state has them
        own_dot = tl.full([THREADS], 0.0, tl.float32)
        tangent_dot = tl.full([THREADS], 0.0, tl.float32)
        e_sq = tl.full([THREADS], 0.0, tl.float32)
        own_sq = tl.full([THREADS], 0.0, tl.float32)
        tangent_sq = tl.full([THREADS], 0.0, tl.float32)
        whole = n // TILE * TILE
        wide = tl.where(_aligned(row, OWN, MOMENTS, TANGENT), whole, 0)
        for RAGGED in tl.static_range(2):
            for MASKED in tl.static_range(RAGGED, 2):
                begin = whole if RAGGED else (wide if MASKED else 0)
                end = n if RAGGED else (whole if MASKED else wide)
                # where all this is does not stay in registers from loop to loop
                _, row, _, first, n = piece_at(words, chunks, chunk, CHUNK, CHUNK)
                gradient = column(row, "row.grad", first, tl.float32)
                param = column(row, "row.param", first, tl.float32)
                if OWN >= 0:
                    columns = _columns_from(row, first, OWN, 2 if MOMENTS else 1)
                if TANGENT >= 0:
                    tangent = column(row, "row.state", first, tl.float32, TANGENT)
                for i in range(begin, end, END_TILE if RAGGED else TILE):
                    place = i + (end_lanes if RAGGED else lanes)
                    mask = place < n if MASKED else None
                    other = 0.0 if MASKED else None
                    e = tl.load(gradient + place, mask, other)
                    if OWN >= 0:
                        decays = is_true(decay)
                        w = tl.load(param + place, decays & mask if MASKED else decays, 0.0)
                        x = _direction(columns, averages, place, mask, other)
                        b = scale * x + decay * w
                        own_dot += tl.sum(e * b, axis=1)
                        own_sq += tl.sum(b * b, axis=1)
                    if TANGENT >= 0:
                        zw = tl.load(tangent + place, mask, other)
                        tangent_dot += tl.sum(e * zw, axis=1)
                        tangent_sq += tl.sum(zw * zw, axis=1)
                    e_sq += tl.sum(e * e, axis=1)

        # where all this is does not stay in registers over the loops
        tensor, row, _, first, _ = piece_at(words, chunks, chunk, CHUNK, CHUNK)
        parts = chunk_sums + SUMS * chunk
        tl.store(parts + at("projected.e_dot_own"), tl.sum(own_dot.to(tl.float64)))
        tl.store(parts + at("projected.e_dot_tangent"), tl.sum(tangent_dot.to(tl.float64)))
        tl.store(parts + at("projected.e_sq"), tl.sum(e_sq.to(tl.float64)))
        tl.store(parts + at("projected.own_sq"), tl.sum(own_sq.to(tl.float64)))
        tl.store(parts + at("projected.tangent_sq"), tl.sum(tangent_sq.to(tl.float64)))
        num_parts = tl.cdiv(tl.load(row + at("row.numel")), CHUNK)
        if is_last(tickets + tensor, num_parts):
            parts = chunk_sums + SUMS * (chunk - first // CHUNK)
            for k in tl.static_range(SUMS):
                tl.store(sums + SUMS * tensor + k, strided_total(parts + k, num_parts, SUMS))


@triton.jit
def _aligned(row, OWN: tl.constexpr, MOMENTS: tl.constexpr, TANGENT: tl.constexpr):
    """Whether all that is read begins on 16 bytes."""
    COLUMNS: tl.constexpr = ("row.grad", "row.param")
    places = tl.load(row + at("row.state") + OWN) if OWN >= 0 else 0
    if MOMENTS:
        places |= tl.load(row + at("row.state") + OWN + 1)
    if TANGENT >= 0:
        places |= tl.load(row + at("row.state") + TANGENT)
    return (places & 15 == 0) & are_aligned(row, COLUMNS)


def _number_of(column: Column | None) -> int:
    return _NOWHERE if column is None else column - Column.STATE


def launch_project(
    projection: Projection, table: TensorTable, coefficients: Tensor, sums: Tensor
) -> None:
    """The sums of every tensor; 0 of those without a gradient."""
    constants: dict[str, Any] = {
        "OWN": _number_of(projection.own),
        "MOMENTS": len(projection.sources) == 2,
        "TANGENT": _number_of(projection.tangent),
        "CHUNK": table.chunk_size,
        "TILE": _TILE,
        "THREADS": 32 * _WARPS,
        "num_warps": _WARPS,
        "maxnreg": 128,  # two blocks fit a multiprocessor
    }
    memory = (table.chunk_sums, sums, table.tickets)
    launch(
        project,
        min(table.num_chunks, most_programs(table.device)),
        table.device,
        f"projecting on a gradient by the form {projection.name!r}",
        (table.words, table.chunks, table.num_chunks, coefficients, *memory),
        **constants,
    )
