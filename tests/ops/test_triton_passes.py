"""Triton's measure and apply against the plain-torch ones, on the GPU or interpreted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import assert_same_bits, normal
from numpy.testing import assert_allclose
from torch import Tensor

from yfkernels.ops import torch as plain
from yfkernels.ops import triton as backend
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.tuner import COEFFICIENT_FIELDS, SUMS, TILE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REASON = backend.unusable(DEVICE)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
VARIANCES = ["exact", "sketch"]


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


CASES = {
    "one": Case([1]),
    "ragged": Case([7, 4095, 4096, 4097, 2048, 2049]),
    "chunks": Case([16384 + 4101, 3]),
    "offset": Case([5, 4099], offset=3),
    "missing": Case([10, 20, 5000, 30], missing=[0, 2]),
    "shards": Case([5000, 33, 4200], origins=[1, 4096 * 3 + 4000, 2**43 + 4095]),
}


def put(values: Tensor, offset: int) -> Tensor:
    """A copy that lies `offset` elements into an allocation."""
    room = torch.empty(values.numel() + offset, dtype=values.dtype, device=DEVICE)
    return room[offset:].copy_(values)


def upload(table: TensorTable, grads: list[Tensor | None]) -> None:
    """Gives the table a step's gradients."""
    table.bind(grads)
    pointers = [0 if grad is None else grad.data_ptr() for grad in grads]
    if table.moved(pointers):
        backend.upload_grads(table, pointers)


class Pair:
    """The same tensors in a table of the Triton backend and in one of the plain backend."""

    def __init__(
        self, case: Case, dtype: torch.dtype, variance: str, rng: np.random.Generator
    ) -> None:
        self.variance = variance
        rows: list[list[Row]] = [[], []]
        grads: list[list[Tensor | None]] = [[], []]
        origin = 0
        for index, size in enumerate(case.sizes):
            like = torch.empty(size)
            values = {column: normal(rng, like).float() for column in self.columns(dtype)}
            values[Column.PARAM] = values[Column.PARAM].to(dtype)
            if Column.MASTER in values:
                values[Column.MASTER] = self.master(values[Column.PARAM], rng)
            grad = normal(rng, like).to(dtype)
            grad[torch.from_numpy(rng.random(size) < 0.2)] = 0.0
            at = origin if case.origins is None else case.origins[index]
            origin += -(-size // TILE) * TILE
            for side in range(2):
                columns = {c: put(v, case.offset) for c, v in values.items()}
                rows[side].append(Row(index, index % 2, at, columns))
                grads[side].append(None if index in case.missing else put(grad, case.offset))
        self.fused = TensorTable("triton", rows[0])
        self.plain = TensorTable("torch", rows[1])
        self.plain.bind(grads[1])
        upload(self.fused, grads[0])

    def columns(self, dtype: torch.dtype) -> list[Column]:
        average = [Column.GRAD_AVG] if self.variance == "exact" else []
        master = [] if dtype == torch.float32 else [Column.MASTER]
        return [Column.PARAM, Column.MOMENTUM, *average, *master]

    @staticmethod
    def master(param: Tensor, rng: np.random.Generator) -> Tensor:
        """Masters that round to the parameter, but for a third that somebody has overwritten."""
        master = param.float()
        nudged = master * (1.0 + 1e-4 * normal(rng, master).float())
        master = torch.where(nudged.to(param.dtype) == param, nudged, master)
        written = torch.from_numpy(rng.random(len(param)) < 0.3)
        return torch.where(written, normal(rng, master).float(), master)


def coefficients(rng: np.random.Generator, groups: int = 2) -> Tensor:
    values = torch.from_numpy(rng.standard_normal((groups, len(COEFFICIENT_FIELDS))))
    values[:, COEFFICIENT_FIELDS.index("active")] = 1.0
    return values.to(DEVICE)


def compare_measure(pair: Pair) -> None:
    slots = pair.fused.num_slots
    seen = torch.full((slots, len(SUMS)), math.nan, dtype=torch.float64, device=DEVICE)
    expected = torch.zeros(1, len(SUMS), dtype=torch.float64, device=DEVICE)
    sketches: list[Tensor | None] = [None, None]
    if pair.variance == "sketch":
        sketches[0] = torch.full((slots, TILE), math.nan, device=DEVICE)
        sketches[1] = torch.zeros(1, TILE, dtype=torch.float64, device=DEVICE)

    backend.yellowfin_measure(pair.fused, seen, sketches[0])
    plain.yellowfin_measure(pair.plain, expected, sketches[1])

    scale = expected[0, SUMS.index("grad_sq")].item()
    assert_allclose(seen.sum(0).cpu(), expected[0].cpu(), rtol=2e-6, atol=1e-6 * scale)
    for name in ("nonzero", "count"):
        at = SUMS.index(name)
        assert seen[:, at].sum() == expected[0, at]
    if sketches[0] is not None and sketches[1] is not None:
        assert_allclose(sketches[0].double().sum(0).cpu(), sketches[1][0].cpu(), atol=2e-5)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
class TestPasses:
    def test_measure(
        self, case: str, dtype: torch.dtype, variance: str, rng: np.random.Generator
    ) -> None:
        compare_measure(Pair(CASES[case], dtype, variance, rng))

    def test_apply(
        self, case: str, dtype: torch.dtype, variance: str, rng: np.random.Generator
    ) -> None:
        pair = Pair(CASES[case], dtype, variance, rng)
        rule = coefficients(rng)
        backend.yellowfin_apply(pair.fused, rule)
        plain.yellowfin_apply(pair.plain, rule)
        for index, (ours, theirs) in enumerate(zip(pair.fused.rows, pair.plain.rows, strict=True)):
            for column, expected in theirs.columns.items():
                seen = ours.columns[column]
                if index in CASES[case].missing:
                    assert_same_bits(seen, expected, f"{column.name} of tensor {index}")
                else:
                    exact = column != Column.PARAM or dtype == torch.float32
                    rtol = 2e-6 if exact else torch.finfo(dtype).eps
                    torch.testing.assert_close(seen, expected, rtol=rtol, atol=2e-6)
            if Column.MASTER in ours.columns:
                master, param = ours.columns[Column.MASTER], ours.columns[Column.PARAM]
                if index not in CASES[case].missing:
                    assert_same_bits(param, master.to(dtype), f"parameter {index}")


@pytest.mark.parametrize("variance", VARIANCES)
def test_measure_several_slots(variance: str, rng: np.random.Generator) -> None:
    pair = Pair(Case([70000, 1]), torch.float32, variance, rng)
    assert pair.fused.num_slots > 1
    compare_measure(pair)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_skipped_step_writes_nothing(dtype: torch.dtype, rng: np.random.Generator) -> None:
    pair = Pair(CASES["ragged"], dtype, "exact", rng)
    rule = coefficients(rng)
    rule[:, COEFFICIENT_FIELDS.index("active")] = 0.0
    before = [{c: t.clone() for c, t in row.columns.items()} for row in pair.fused.rows]
    backend.yellowfin_apply(pair.fused, rule)
    assert_same_bits(before, [row.columns for row in pair.fused.rows])


def test_bfloat16_rounds_to_nearest_even() -> None:
    """Ties, subnormals and what rounds to infinity, through the apply pass."""
    bits = torch.arange(0, 2**16, dtype=torch.int32) << 16
    halves = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    master = (bits[::7, None] | halves).flatten().view(torch.float32)
    master = master[master.isfinite()].to(DEVICE)
    columns = {
        Column.PARAM: master.to(torch.bfloat16),
        Column.MOMENTUM: torch.zeros_like(master),
        Column.MASTER: master.clone(),
    }
    table = TensorTable("triton", [Row(0, 0, 0, columns)])
    upload(table, [torch.zeros_like(columns[Column.PARAM])])
    rule = torch.zeros(1, len(COEFFICIENT_FIELDS), dtype=torch.float64, device=DEVICE)
    for name in ("active", "param_keep"):
        rule[0, COEFFICIENT_FIELDS.index(name)] = 1.0

    backend.yellowfin_apply(table, rule)

    assert_same_bits(columns[Column.PARAM], master.to(torch.bfloat16))
    assert_same_bits(columns[Column.MASTER], master)
