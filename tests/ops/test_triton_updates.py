"""Triton's writing passes against every rule in NumPy, in double precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from numpy_rounding import (
    ABSOLUTE_CODES,
    FLOAT8,
    RELATIVE_CODES,
    Grid,
    assert_few_tipped,
    coded_randomly,
    decoded,
    grid_of,
    in_float8_randomly,
    rounded_randomly,
)
from numpy_rules import (
    PRECONDITIONED,
    YELLOWFINS,
    direction,
    draw_coefficients,
    move_sums_of,
    recalled,
    trust_ratio,
)
from oracle.codes import unit_of
from support.cases import assert_same_bits
from support.roundings import SUM_OFF, assert_near, square_sum_off
from tables import DEVICE, ON_DEVICE, Case, backend, draw_table, put, upload
from torch import Tensor

from yfkernels.ops import float8
from yfkernels.ops.rules import (
    LAMB,
    LAMB_BYTES,
    QHADAM,
    QHADAM_BYTES,
    QHM,
    YELLOWFIN,
    YELLOWFIN_COMPACT,
    YELLOWFIN_DIAGONAL,
    YELLOWFIN_ROBUST,
    YELLOWFIN_SKETCH,
    Rule,
    Stored,
)
from yfkernels.ops.table import GRANULARITY, Column, Granularity, Row, TensorTable

REASON = backend.unusable(DEVICE)
pytestmark = [*ON_DEVICE, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

Array = NDArray[np.float64]
UPDATING = [
    YELLOWFIN,
    YELLOWFIN_SKETCH,
    YELLOWFIN_ROBUST,
    *PRECONDITIONED,
    QHM,
    QHADAM,
    QHADAM_BYTES,
]
ADAPTING = [YELLOWFIN, YELLOWFIN_SKETCH, LAMB, LAMB_BYTES]
PASSES = [("update", rule) for rule in UPDATING] + [("adapt", rule) for rule in ADAPTING]
# dtype, and whether the parameter has a master; without one a half is rounded stochastically
FORMS = [
    (torch.float32, False),
    (torch.bfloat16, True),
    (torch.bfloat16, False),
    (torch.float16, True),
    (torch.float16, False),
]
CASES = {
    "ragged": Case([1, 3, 1023, 1025, 4099], missing=[1], origins=[0, 64, 2**32 - 32, 7, 2**40]),
    "offset": Case([5, 2050], offset=3),
}
STEPS = 4.0  # taken before
# Of a float: two dozen roundings from the inputs to u, coefficients included, and of any state.
ROUNDINGS = 24 * 2.0**-24


def run(passes: str, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    if passes == "update":
        backend.update(rule, table, coefficients)
    else:
        backend.update_state(rule, table, coefficients)
        backend.apply(rule, table, coefficients)


def everything(table: TensorTable) -> list[dict[Column, Tensor]]:
    return [{c: t.clone().cpu() for c, t in row.columns.items()} for row in table.rows]


def trust_ratio_off(
    rule: Rule, c: dict[str, float], norms: tuple[float, float], off: tuple[float, float]
) -> float:
    """How far the ratio may be off: it grows with ‖p‖ and falls with ‖u‖, of which little may be
    left where terms cancel."""
    (p_sq, u_sq), (p_off, u_off) = norms, off
    least = trust_ratio(rule, c, p_sq - p_off, u_sq + u_off)
    most = trust_ratio(rule, c, p_sq + p_off, max(u_sq - u_off, math.ulp(0.0)))
    return most - least


def states_of(rule: Rule, columns: dict[Column, Tensor]) -> list[Array]:
    """What they stand for."""
    values = [columns[Column.state(k)] for k in range(rule.states)]
    states = [value.double().numpy() for value in values]
    if rule.stored.coded:
        states[1] = decoded(values[1].numpy(), grid_of_codes(rule))
    if rule.stored.in_float8:
        states[0] = float8.numbers(values[0]).double().numpy()
    if rule.stored == Stored.MOMENTS:
        states[0] = states[0] * unit_of(states[1])
    return states


def grid_of_codes(rule: Rule) -> Grid:
    return ABSOLUTE_CODES if rule.stored == Stored.MOMENTS else RELATIVE_CODES


def newest(columns: dict[Column, Tensor]) -> Array:
    """The parameter: its master, unless somebody has written to it."""
    param, master = columns[Column.PARAM], columns.get(Column.MASTER)
    if master is not None:
        param = torch.where(master.to(param.dtype) == param, master, param.float())
    return param.double().numpy()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("passes", "rule"), PASSES, ids=lambda each: getattr(each, "name", each))
@pytest.mark.parametrize("case", CASES)
def test_a_step_equals_the_rule(
    case: str,
    passes: str,
    rule: Rule,
    form: tuple[torch.dtype, bool],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(GRANULARITY, DEVICE, Granularity(4096, 256, 1))  # chunks as on a GPU
    dtype, mastered = form
    if case == "offset" and dtype == torch.float16:
        pytest.skip("alignment is told by bytes, as with bfloat16")
    table = draw_table(CASES[case], rule, dtype, mastered, rng, STEPS)
    before = everything(table)
    coefficients = draw_coefficients(rule, rng)

    run(passes, rule, table, coefficients)

    assert not table.tickets.any()
    move_sums = move_sums_off = np.zeros(rule.move_sums)
    for index, (old, new) in enumerate(zip(before, everything(table), strict=True)):
        where = f"tensor {index}"
        grad = table.grads[index]
        if grad is None:
            assert_same_bits(old, new, where)
            assert not table.norms[index].any(), where
            continue
        group = dict(zip(rule.fields, coefficients[index % 2].tolist(), strict=True))
        p, g = newest(old), grad.cpu().double().numpy()
        s = states_of(rule, old)
        u, after, gain, below = direction(rule, group, g, p, s, STEPS + 1)
        s = [abs(x) for x in s]
        size, sizes, _, too_large = direction(rule, group, abs(g), abs(p), s, STEPS + 1)
        size = size * (too_large / below)
        if rule in PRECONDITIONED:
            sizes[0] = size
        at = table.rows[index].origin, int(STEPS) + 1
        kept = states_of(rule, new)
        unit = unit_of(kept[1]) if rule.stored == Stored.MOMENTS else 1.0
        for k, (seen, expected, off) in enumerate(zip(kept, after, sizes, strict=True)):
            if rule.stored.in_float8 and k == 0:
                wanted = in_float8_randomly((expected / unit).astype(np.float32), *at)
                # what becomes a float16 first is off by its half a unit, too
                halved = (ROUNDINGS * off + 2.0**-11 * abs(expected)) / unit + 2.0**-25
                assert_few_tipped(seen / unit, wanted, halved, FLOAT8, where)
            elif rule.stored.coded and k == 1:
                grid = grid_of_codes(rule)
                codes = coded_randomly(expected.astype(np.float32), *at, grid)
                assert_few_tipped(seen, decoded(codes, grid), ROUNDINGS * off, grid, where)
            else:
                assert_near(seen, expected, ROUNDINGS * off, where)
        ratio, ratio_off = 1.0, 0.0
        if passes == "adapt":
            norms = p @ p, u @ u
            norms_off = SUM_OFF * norms[0], square_sum_off(u, ROUNDINGS * size)
            assert_near(table.norms[index], norms, norms_off, where)
            ratio = trust_ratio(rule, group, *norms)
            ratio_off = trust_ratio_off(rule, group, norms, norms_off)
            if rule in YELLOWFINS:
                u, size = after[0], sizes[0]  # what the second pass finds
            elif rule.stored.coded:
                u = recalled(rule, group, p, kept, STEPS + 1)
        keep = group.get("param_keep", 1.0)
        if group.get("decoupled"):
            keep = 1.0 - group["lr"] * group["weight_decay"]
        moved = keep * p + gain * ratio * u
        assert new[Column.STEP] == STEPS + 1
        off = abs(gain) * ((ratio + ratio_off) * ROUNDINGS * size + ratio_off * abs(u))
        off += ROUNDINGS * (abs(keep * p) + abs(p))
        if rule.move_sums:
            sums, sums_off = move_sums_of(
                rule, group, g, p, moved, after, STEPS + 1, ROUNDINGS, off
            )
            move_sums, move_sums_off = move_sums + sums, move_sums_off + sums_off
        if dtype == torch.float32 or mastered:
            assert_near(new[Column.MASTER if mastered else Column.PARAM], moved, off, where)
        if mastered:
            assert_same_bits(new[Column.PARAM], new[Column.MASTER].to(dtype), where)
        elif dtype != torch.float32:
            halves = rounded_randomly(moved.astype(np.float32), dtype, *at)
            seen, wanted = (x.double().numpy() for x in (new[Column.PARAM], halves))
            assert_few_tipped(seen, wanted, off, grid_of(dtype), where)
    if rule.move_sums:
        assert_near(table.move_sums[: rule.move_sums], move_sums, move_sums_off, "move_sums")
    assert not table.move_sums[rule.move_sums :].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("origin", [0, 96, 2**32 - 4096, 2**32, 2**43 + 5])
def test_stochastic_rounding_bit_for_bit(
    dtype: torch.dtype, origin: int, rng: np.random.Generator
) -> None:
    """Values of every size, times a float: the one product is exact before it is rounded."""
    halves = torch.arange(0, 2**15, 11, dtype=torch.int16).view(dtype)
    halves = halves[halves.isfinite() & (halves.float() < 1e4)]
    if dtype == torch.bfloat16:  # the interpreter reads bfloat16's subnormals wrong
        halves = halves[halves.float() > 1e-37]
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], len(halves))).to(dtype)
    columns = {
        Column.PARAM: put(halves * signs, 0),
        Column.STATE: torch.zeros(len(halves), device=DEVICE),
        Column.STEP: torch.tensor(3.0, device=DEVICE),
    }
    table = TensorTable(backend, [Row(0, 0, origin, columns)])
    upload(table, [torch.zeros_like(columns[Column.PARAM])])
    group = dict.fromkeys(QHM.fields, 0.0) | {"active": 1.0, "decoupled": 1.0, "lr": 1.0}
    group["weight_decay"] = 1.0 - float(np.float32(rng.uniform(0.5, 1.5)))
    coefficients = torch.tensor([list(group.values())], dtype=torch.float64, device=DEVICE)
    for step in (4, 5):
        p = columns[Column.PARAM].cpu().float().numpy()
        product = np.float32(1.0 - group["weight_decay"]) * p
        backend.update(QHM, table, coefficients)
        expected = rounded_randomly(product, dtype, origin, step)
        assert_same_bits(columns[Column.PARAM].cpu(), expected, f"step {step}")


@pytest.mark.parametrize("origin", [0, 96, 2**32 - 4096, 2**32, 2**43 + 5])
def test_codes_bit_for_bit(origin: int, rng: np.random.Generator) -> None:
    """Squares of every size, and beyond the codes; they are all that is rounded before."""
    size = 4000
    g = np.exp2(rng.uniform(-30.0, 15.0, size)).astype(np.float32)
    columns = {
        Column.PARAM: torch.zeros(size, device=DEVICE),
        Column.STATE: torch.zeros(size, device=DEVICE),
        Column.state(1): torch.from_numpy(rng.integers(256, size=size, dtype=np.uint8)).to(DEVICE),
        Column.STEP: torch.tensor(3.0, device=DEVICE),
    }
    table = TensorTable(backend, [Row(0, 0, origin, columns)])
    upload(table, [torch.from_numpy(g).to(DEVICE)])
    ones = ("active", "grad_scale", "average_gain")
    group = dict.fromkeys(YELLOWFIN_COMPACT.fields, 0.0) | dict.fromkeys(ones, 1.0)
    coefficients = torch.tensor([list(group.values())], dtype=torch.float64, device=DEVICE)
    for step in (4, 5):
        backend.update(YELLOWFIN_COMPACT, table, coefficients)
        expected = torch.from_numpy(coded_randomly(g * g, origin, step))
        assert_same_bits(columns[Column.state(1)].cpu(), expected, f"step {step}")


@pytest.mark.parametrize("chunk", [20480, 53248])
@pytest.mark.parametrize("passes", ["update", "adapt"])
def test_every_element_of_cut_chunks(
    chunk: int, passes: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces need not divide a chunk."""
    monkeypatch.setitem(GRANULARITY, DEVICE, Granularity(chunk, 1, 1))
    table = draw_table(Case([chunk + 20000]), YELLOWFIN_SKETCH, torch.float32, False, rng, STEPS)
    assert (table.chunk_size, table.num_chunks) == (chunk, 2)
    before = everything(table)[0]
    group = dict.fromkeys(YELLOWFIN_SKETCH.fields, 1.0)
    coefficients = torch.tensor([list(group.values())], dtype=torch.float64, device=DEVICE)
    run(passes, YELLOWFIN_SKETCH, table, coefficients)
    (after,) = everything(table)
    assert (after[Column.PARAM] != before[Column.PARAM]).all()
    assert (after[Column.STATE] != before[Column.STATE]).float().mean() > 0.9  # 0 + 0 is 0
    assert after[Column.STEP] == STEPS + 1
    assert not table.tickets.any()


def test_move_sums_of_cut_chunks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over all pieces, in the same order however many programs share the work."""
    from yfkernels.ops.triton import update

    monkeypatch.setitem(GRANULARITY, DEVICE, Granularity(65536, 1, 1))
    rule = YELLOWFIN_DIAGONAL
    coefficients = draw_coefficients(rule, rng)
    seed = int(rng.integers(2**32))
    seen: list[Any] = []
    for programs in (1, 3):
        monkeypatch.setattr(update, "most_programs", lambda device, n=programs: n)
        case = Case([65536 + 20000, 5], missing=[1])
        table = draw_table(case, rule, torch.float32, False, np.random.default_rng(seed), STEPS)
        assert table.num_chunks == 3
        before = everything(table)[0]
        run("update", rule, table, coefficients)
        seen.append([table.move_sums, everything(table)])
        assert not table.tickets.any()
    assert_same_bits(*seen)

    after = everything(table)[0]
    p, s, moved, square_avg = (
        columns[column].double().numpy()
        for columns in (before, after)
        for column in (Column.PARAM, Column.state(1))
    )
    group = dict(zip(rule.fields, coefficients[0].tolist(), strict=True))
    g = table.grads[0].cpu().double().numpy()  # type: ignore[union-attr]
    off = 2.0**-24 * abs(moved)
    move_sums = move_sums_of(rule, group, g, p, moved, [s, square_avg], STEPS + 1, ROUNDINGS, off)
    assert_near(table.move_sums, *move_sums, "move_sums")


@pytest.mark.parametrize(("passes", "rule"), PASSES, ids=lambda each: getattr(each, "name", each))
def test_a_skipped_step_writes_nothing(passes: str, rule: Rule, rng: np.random.Generator) -> None:
    table = draw_table(CASES["ragged"], rule, torch.bfloat16, True, rng, STEPS)
    coefficients = draw_coefficients(rule, rng)
    coefficients[:, rule.fields.index("active")] = 0.0
    table.move_sums.fill_(7.0)
    before = everything(table)
    run(passes, rule, table, coefficients)
    assert_same_bits(before, everything(table))
    assert (table.move_sums == 7.0).all()
    assert not table.norms.any()


def test_the_norms_are_the_same_bits_each_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is where, and however many programs share the work."""
    from yfkernels.ops.triton import update

    monkeypatch.setitem(GRANULARITY, DEVICE, Granularity(4096, 256, 1))
    seed = int(rng.integers(2**32))
    seen: list[Any] = []
    for programs in (1, 3):
        monkeypatch.setattr(update, "most_programs", lambda device, n=programs: n)
        case = Case([1, 9000, 1023])
        table = draw_table(case, LAMB, torch.bfloat16, True, np.random.default_rng(seed), STEPS)
        run("adapt", LAMB, table, draw_coefficients(LAMB, np.random.default_rng(seed)))
        seen.append([table.norms, everything(table)])
    assert_same_bits(*seen)


@pytest.mark.parametrize("zero", [Column.PARAM, Column.GRAD])
def test_no_ratio_without_a_norm(zero: Column, rng: np.random.Generator) -> None:
    """‖p‖ = 0, or ‖u‖ = 0: the step is Adam's."""
    table = draw_table(Case([33]), LAMB, torch.float32, False, rng, STEPS)
    (row,) = table.rows
    if zero == Column.PARAM:
        row.param.zero_()
    else:
        row.columns[Column.STATE].zero_()
        table.grads[0].zero_()  # type: ignore[union-attr]
    coefficients = draw_coefficients(LAMB, rng)
    for name, value in {"weight_decay": 0.0, "correction": 0.0, "decoupled": 0.0}.items():
        coefficients[:, LAMB.fields.index(name)] = value
    group = dict(zip(LAMB.fields, coefficients[0].tolist(), strict=True))
    old = everything(table)[0]
    run("adapt", LAMB, table, coefficients)
    u, _, gain, _ = direction(
        LAMB,
        group,
        table.grads[0].cpu().double().numpy(),  # type: ignore[union-attr]
        newest(old),
        [old[Column.STATE].double().numpy(), old[Column.state(1)].double().numpy()],
        STEPS + 1,
    )
    assert_allclose(row.param.cpu(), newest(old) + gain * u, rtol=1e-5, atol=1e-6)


def test_steps_are_counted_where_there_is_a_column(rng: np.random.Generator) -> None:
    """Nothing is counted, and no ticket is drawn, in a pass without counts and sums."""
    table = draw_table(Case([1025]), QHM, torch.float32, False, rng, steps=None)
    table.tickets.fill_(5)  # would never be the last
    backend.update(QHM, table, draw_coefficients(QHM, rng))
    assert table.tickets.tolist() == [5, 5]


def test_bfloat16_rounds_to_nearest_even() -> None:
    """Ties, subnormals and what rounds to infinity, through the advance pass."""
    bits = torch.arange(0, 2**16, dtype=torch.int32) << 16
    halves = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    master = (bits[::7, None] | halves).flatten().view(torch.float32)
    master = master[master.isfinite()].to(DEVICE)
    columns = {
        Column.PARAM: master.to(torch.bfloat16),
        Column.STATE: torch.zeros_like(master),
        Column.MASTER: master.clone(),
    }
    table = TensorTable(backend, [Row(0, 0, 0, columns)])
    upload(table, [torch.zeros_like(columns[Column.PARAM])])
    group = dict.fromkeys(YELLOWFIN_SKETCH.fields, 0.0) | {"active": 1.0, "param_keep": 1.0}
    coefficients = torch.tensor([list(group.values())], dtype=torch.float64, device=DEVICE)

    backend.update(YELLOWFIN_SKETCH, table, coefficients)

    assert_same_bits(columns[Column.PARAM], master.to(torch.bfloat16))
    assert_same_bits(columns[Column.MASTER], master)
