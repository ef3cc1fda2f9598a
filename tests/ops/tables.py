"""Tables of the Triton backend with what is in them, for the tests of its passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import normal
from torch import Tensor

from yfkernels.ops import float8
from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import TILE
from yfkernels.ops.rules import Rule
from yfkernels.ops.table import Column, Row, TensorTable

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
backend = backend_of("triton", DEVICE)
# `-m cuda` selects what runs there, and nothing of what is interpreted for want of a device
ON_DEVICE = [pytest.mark.cuda] if DEVICE == "cuda" else []
on_device: Any = pytest.mark.cuda if DEVICE == "cuda" else lambda test: test


@dataclass(frozen=True)
class Case:
    """Tensors of one table.

    Attributes:
        sizes: elements of each tensor.
        origins: position of each in the model; by default one after the other, tile by tile.
        offset: elements that each lies off the start of its allocation.
        missing: tensors without a gradient.
    """

    sizes: Sequence[int]
    origins: Sequence[int] | None = None
    offset: int = 0
    missing: Sequence[int] = ()

    @property
    def present(self) -> list[int]:
        return [index for index in range(len(self.sizes)) if index not in self.missing]


def put(values: Tensor, offset: int) -> Tensor:
    """A copy that lies `offset` elements into an allocation."""
    room = torch.empty(values.numel() + offset, dtype=values.dtype, device=DEVICE)
    return room[offset:].copy_(values)


def pairs(table: TensorTable) -> list[tuple[Row, Tensor]]:
    """The rows that have a gradient, with it."""
    return [(row, grad) for row, grad in zip(table.rows, table.grads) if grad is not None]


def columns_of(rule: Rule, dtype: torch.dtype, mastered: bool) -> list[Column]:
    states = [Column.state(k) for k in range(rule.states)]
    return [Column.PARAM, *states, *([Column.MASTER] if mastered else [])]


def masters(param: Tensor, rng: np.random.Generator) -> Tensor:
    """Masters that round to the parameter, but for a third that somebody has overwritten."""
    master = param.float()
    nudged = master * (1.0 + 1e-4 * normal(rng, master).float())
    master = torch.where(nudged.to(param.dtype) == param, nudged, master)
    written = torch.from_numpy(rng.random(len(param)) < 0.3)
    return torch.where(written, normal(rng, master).float(), master)


def upload(table: TensorTable, grads: list[Tensor | None]) -> None:
    """Gives the table a step's gradients."""
    table.bind(grads)
    pointers = [0 if grad is None else grad.data_ptr() for grad in grads]
    backend.upload(table, Column.GRAD, pointers)


def draw_table(
    case: Case,
    rule: Rule,
    dtype: torch.dtype,
    mastered: bool,
    rng: np.random.Generator,
    steps: float | None = None,
) -> TensorTable:
    """Random tensors in two groups, with every fifth entry of the gradients zero.

    steps: that all tensors have taken; None if nobody counts them. A rule's second state is made
    positive, as if it were an average of squares; if it is in codes, any of them.
    """
    rows: list[Row] = []
    grads: list[Tensor | None] = []
    origin = 0
    for index, size in enumerate(case.sizes):
        like = torch.empty(size)
        values = {c: normal(rng, like).float() for c in columns_of(rule, dtype, mastered)}
        values[Column.PARAM] = values[Column.PARAM].to(dtype)
        if Column.state(1) in values:
            values[Column.state(1)] = values[Column.state(1)].abs()
        if rule.stored.coded:
            values[Column.state(1)] = torch.from_numpy(rng.integers(256, size=size, dtype=np.uint8))
        if rule.stored.in_float8:
            values[Column.STATE] = float8.nearest(0.5 * values[Column.STATE])
        if mastered:
            values[Column.MASTER] = masters(values[Column.PARAM], rng)
        grad = normal(rng, like).to(dtype)
        grad[torch.from_numpy(rng.random(size) < 0.2)] = 0.0
        columns = {c: put(v, case.offset) for c, v in values.items()}
        if steps is not None:
            columns[Column.STEP] = torch.full((), steps, device=DEVICE)
        at = origin if case.origins is None else case.origins[index]
        origin += -(-size // TILE) * TILE
        rows.append(Row(index, index % 2, at, columns))
        grads.append(None if index in case.missing else put(grad, case.offset))
    table = TensorTable(backend, rows)
    upload(table, grads)
    return table
