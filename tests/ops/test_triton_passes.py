"""Triton's measure and gate against NumPy in double precision, on the GPU or interpreted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tables import DEVICE, ON_DEVICE, Case, backend, draw_table, pairs
from torch import Tensor

from yfkernels.ops.constants import GATE_STATE, MEASURED, SUMS, TILE
from yfkernels.ops.rules import QHM, YELLOWFIN, Measure
from yfkernels.ops.table import Column, TensorTable

REASON = backend.unusable(DEVICE)
pytestmark = [*ON_DEVICE, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CASES = {
    "one": Case([1]),
    "ragged": Case([7, 4095, 4096, 4097, 2048, 2049]),
    "chunks": Case([16384 + 4101, 3]),
    "offset": Case([5, 4099], offset=3),
    "missing": Case([10, 20, 5000, 30], missing=[0, 2]),
    "shards": Case([5000, 33, 4200], origins=[1, 4096 * 3 + 4000, 2**43 + 4095]),
}


def signs(first: int, count: int) -> np.ndarray:
    """Of the sketch, for elements from `first` on: a hash of the word, then the element's bit."""
    element = np.arange(first, first + count, dtype=np.uint64)
    x = (element >> np.uint64(5)) ^ (element >> np.uint64(37))
    x = (x & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    bit = (x >> (element & np.uint64(31)).astype(np.uint32)) & np.uint32(1)
    return 1.0 - 2.0 * bit


def check_measure(table: TensorTable, what: Measure) -> None:
    slots = table.num_slots
    seen = torch.full((slots, len(SUMS)), math.nan, dtype=torch.float64, device=DEVICE)
    sketches = torch.full((slots, TILE), math.nan, device=DEVICE)
    backend.measure(table, what, seen, sketches if what == Measure.SKETCH else None, True)

    expected = dict.fromkeys(MEASURED, 0.0)
    sketch = np.zeros(TILE)
    for row, grad in pairs(table):
        g = grad.cpu().double().numpy()
        expected["grad_sq"] += g @ g
        expected["nonzero"] += np.count_nonzero(g)
        expected["count"] += g.size
        if what == Measure.AVERAGE:
            average = row.columns[Column.state(1)].cpu().double().numpy()
            expected["avg_dot_grad"] += average @ g
            expected["avg_sq"] += average @ average
        place = (row.origin + np.arange(g.size)) % TILE
        np.add.at(sketch, place, g * signs(row.origin, g.size))
    assert seen[:, len(MEASURED) :].isnan().all(), "a place that belongs to others was written"
    sums = dict(zip(SUMS, seen.sum(0).tolist(), strict=True))
    for name in MEASURED:
        atol = 1e-6 * expected["grad_sq"]
        assert_allclose(sums[name], expected[name], rtol=2e-6, atol=atol, err_msg=name)
    assert sums["nonzero"] == expected["nonzero"]
    assert sums["count"] == expected["count"]
    if what == Measure.SKETCH:
        assert_allclose(sketches.double().sum(0).cpu(), sketch, atol=2e-5)


@pytest.mark.parametrize("what", Measure)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_measure(case: str, dtype: torch.dtype, what: Measure, rng: np.random.Generator) -> None:
    check_measure(draw_table(CASES[case], YELLOWFIN, dtype, False, rng), what)


@pytest.mark.parametrize("what", Measure)
def test_measure_several_slots(what: Measure, rng: np.random.Generator) -> None:
    table = draw_table(Case([70000, 1]), YELLOWFIN, torch.float32, False, rng)
    assert table.num_slots > 1
    check_measure(table, what)


class Gate:
    """What the gate works on, and what it should make of it."""

    def __init__(self, rng: np.random.Generator, groups: int = 2) -> None:
        self.state = torch.tensor([7.0, 3.0], dtype=torch.float64, device=DEVICE)
        values = rng.random((groups, len(QHM.fields)))
        values[:, QHM.fields.index("sign")] = rng.choice([-1.0, 1.0], groups)
        values[0, QHM.fields.index("max_norm")] = math.inf
        self.before = dict(zip(QHM.fields, values.T, strict=True))
        self.coefficients = torch.from_numpy(values).to(DEVICE)

    def check(self, norm_sq: float | None, scale: float, found_inf: bool) -> None:
        state = dict(zip(GATE_STATE, self.state.tolist(), strict=True))
        after = dict(zip(QHM.fields, self.coefficients.cpu().numpy().T, strict=True))
        active = not found_inf and (norm_sq is None or math.isfinite(norm_sq))
        assert state["skipped"] == (3.0 if active else 4.0)
        assert (after["active"] == (1.0 if active else 0.0)).all()
        norm = 7.0  # of the step before
        if active:
            norm = math.nan if norm_sq is None else math.sqrt(norm_sq) / scale
        assert_allclose(state["grad_norm"], norm, rtol=1e-6)
        if active:
            # a gradient below its bound, or not measured, is not clipped
            clip = [b / norm if norm > b else 1.0 for b in self.before["max_norm"]]
            expected = self.before["sign"] * clip / scale
            assert_allclose(after["grad_scale"], expected, rtol=1e-6)
        for name in QHM.fields[2:]:
            assert (after[name] == self.before[name]).all(), name


def scalar(value: float) -> Tensor:
    return torch.tensor(value, device=DEVICE)


@pytest.mark.parametrize("slots", [0, 1, 300])
@pytest.mark.parametrize("norm", [0.01, 5.0, 0.0, math.inf, math.nan])
@pytest.mark.parametrize("amp", [None, 0.0, 1.0])
def test_gate(slots: int, norm: float, amp: float | None, rng: np.random.Generator) -> None:
    gate = Gate(rng, groups=3)
    partials = None
    if slots:
        values = torch.from_numpy(rng.random((slots, len(SUMS))))
        values[:, 0] *= norm * norm / values[:, 0].sum()
        partials = values.to(DEVICE)
    scales = (None, None) if amp is None else (scalar(1024.0), scalar(amp))
    backend.decide(partials, *scales, gate.state, gate.coefficients)
    scale = 1.0 if amp is None else 1024.0
    gate.check(norm * norm if slots else None, scale, bool(amp))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("found_inf", [None, 0.0, 1.0])
def test_measure_then_decide(
    dtype: torch.dtype, found_inf: float | None, rng: np.random.Generator
) -> None:
    """The second of two tables: the slots of the first are there already."""
    gate = Gate(rng)
    table = draw_table(CASES["chunks"], YELLOWFIN, dtype, False, rng)
    partials = torch.from_numpy(rng.random((3 + table.num_slots, len(SUMS)))).to(DEVICE)
    before = partials.clone()
    norm_sq = before[:3, 0].sum().item() + sum(
        (grad.double() ** 2).sum().item() for _, grad in pairs(table)
    )
    overflow = None if found_inf is None else scalar(found_inf)
    for _ in range(2):  # the ticket is ready for the next step
        gate.state[1] = 3.0
        scalars = (scalar(8.0), overflow, gate.state, gate.coefficients)
        backend.measure_then_decide(table, partials[3:], partials, *scalars)
        gate.check(norm_sq, 8.0, bool(found_inf))
        gate.state[0] = 7.0
    assert torch.equal(partials[:3], before[:3])
    assert not table.tickets.any()


def test_not_finite_gradient_closes_the_gate(rng: np.random.Generator) -> None:
    gate = Gate(rng)
    table = draw_table(CASES["ragged"], YELLOWFIN, torch.float32, False, rng)
    grad = table.grads[3]
    assert grad is not None
    grad[-1] = math.nan
    partials = torch.zeros(table.num_slots, len(SUMS), dtype=torch.float64, device=DEVICE)
    backend.measure_then_decide(
        table, partials, partials, None, None, gate.state, gate.coefficients
    )
    gate.check(math.nan, 1.0, False)
