"""Float8, in which velocities are kept: every backend rounds the same numbers to the same bits.

The rule is given coefficients with which v becomes just what a test wants: with no squares the
metric is its floor, a power of two, and u an exact multiple of the gradient.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle.codes import LARGEST, SIZES, in_float8, numbers_of_float8, random_words
from support.cases import Site, memory_order
from torch import Tensor

from yfkernels.ops import float8
from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import METRIC_FLOOR
from yfkernels.ops.rules import YELLOWFIN_FLOAT8
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.torch import random

L = 30.0  # of Bernstein's bound: see test_stochastic_rounding.py
ORIGINS = (0, 4096, 2**32 + 64, 2**40)
FINITE = torch.tensor([*range(0x7F), *range(0x80, 0xFF)], dtype=torch.uint8)


def bits_after(
    site: Site,
    bits: Tensor,
    gradient: Tensor,
    *,
    origin: int = 0,
    taken: int = 0,
    **given: float,
) -> tuple[Tensor, Tensor]:
    """(v, p) after a step in which v becomes momentum * unit_change * v + g / unit, and p += v."""
    like = gradient.float().to(site.device)
    columns = {
        Column.PARAM: torch.zeros_like(like),
        Column.STATE: torch.empty_like(like, dtype=torch.uint8).copy_(bits),
        Column.state(1): torch.zeros_like(like, dtype=torch.uint8),
        Column.STEP: torch.full((), float(taken), device=site.device),
    }
    backend = backend_of(site.backend, site.device)
    table = TensorTable(backend, [Row(0, 0, origin, columns)])
    table.bind([like])
    backend.upload(table, Column.GRAD, [like.data_ptr()])
    ones = ("active", "grad_scale", "param_keep", "update_clip", "unit", "unit_change")
    values = {
        **dict.fromkeys(YELLOWFIN_FLOAT8.fields, 0.0),
        **dict.fromkeys(ones, 1.0),
        "velocity_gain": METRIC_FLOOR,
        **given,
    }
    row = [values[name] for name in YELLOWFIN_FLOAT8.fields]
    coefficients = torch.tensor([row], dtype=torch.float64, device=site.device)
    backend.update(YELLOWFIN_FLOAT8, table, coefficients)
    assert float(columns[Column.STEP]) == taken + 1.0
    return columns[Column.STATE], columns[Column.PARAM]


def draw(rng: np.random.Generator, size: int) -> Tensor:
    """Numbers all over the range of float8, and beyond either end."""
    values = np.exp2(rng.uniform(-27.0, 3.0, size)) * rng.choice([-1.0, 1.0], size)
    values[:9] = (0.0, -0.0, 1e-30, 2.0**-18, -(2.0**-19), LARGEST, -1.875, 1.9999, -1e15)
    return torch.from_numpy(values).float()


def test_table_of_numbers() -> None:
    seen = float8.numbers(FINITE)
    assert seen.dtype is torch.float32
    np.testing.assert_array_equal(seen.double().numpy(), numbers_of_float8(FINITE.numpy()))
    assert torch.equal(float8.nearest(seen), FINITE)
    beyond = torch.tensor([1e9, -1e9, 1.8])
    assert float8.numbers(float8.nearest(beyond)).tolist() == [LARGEST, -LARGEST, LARGEST]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_every_number_becomes_itself(step: int, origin: int) -> None:
    """Whatever the random bits."""
    for shift in range(8):
        numbers = float8.numbers(FINITE)
        again = random.in_float8(numbers, origin + 256 * shift, torch.tensor(step))
        assert torch.equal(again, FINITE)


def test_every_number_is_read(site: Site) -> None:
    """In units of another size, too; the parameter moves by what it is in this step's."""
    still = torch.zeros(len(FINITE))
    for taken in (0, 1, 50):
        kept = {"momentum": 0.5, "unit_change": 2.0, "unit": 4.0}
        again, moved = bits_after(site, FINITE, still, taken=taken, **kept)
        numbers = float8.numbers(FINITE)
        # -0.0, to which the zero of u is added, is 0.0
        assert torch.equal(float8.numbers(again.cpu()), numbers)
        assert torch.equal(moved.cpu(), 4.0 * numbers)


@pytest.mark.parametrize("origin", ORIGINS)
def test_same_bits_on_every_backend(origin: int, site: Site, rng: np.random.Generator) -> None:
    """Over a chunk's end, with all vectors full and some not."""
    size = 1029 if site.interpreted else 65536 + 1029
    for taken in (0, 999):
        values = draw(rng, size)
        expected = in_float8(values.numpy(), random_words(origin, size, taken + 1))
        zeros = torch.zeros(size)
        seen, moved = bits_after(site, zeros, values, origin=origin, taken=taken)
        negative_zero = np.signbit(values.numpy()) & (numbers_of_float8(expected) == 0.0)
        expected[negative_zero & (values.numpy() == 0.0)] = 0
        np.testing.assert_array_equal(seen.cpu().numpy(), expected)
        # the move of the step is of what has not been rounded
        assert torch.equal(moved.cpu(), values)
        step = torch.tensor(taken + 1.0)
        in_torch = random.in_float8(values + 0.0, origin, step)
        np.testing.assert_array_equal(in_torch.numpy(), expected)


def test_bits_go_by_the_place_in_memory(site: Site, rng: np.random.Generator) -> None:
    values = draw(rng, 2 * 3 * 4 * 5).abs().view(2, 3, 4, 5)
    values = values.contiguous(memory_format=torch.channels_last)
    expected = in_float8(memory_order(values, values), random_words(0, 120, 1))
    seen, _ = bits_after(site, torch.zeros_like(values), values)
    assert seen.stride() == values.stride()
    np.testing.assert_array_equal(memory_order(seen, seen), expected)


def test_what_is_too_large_is_clamped(site: Site) -> None:
    """Also where the unit has become so much smaller that all are."""
    values = torch.tensor([1.75, 1.7501, 1.875, 2.0, 65520.0, 1e15, -1.75, -1e15])
    for taken in range(3):
        seen, _ = bits_after(site, torch.zeros(400), values.repeat(50), taken=taken)
        largest = float8.numbers(seen.cpu()).view(50, 8)
        assert torch.equal(largest, torch.where(values > 0.0, LARGEST, -LARGEST).expand(50, 8))
    fallen = {"momentum": 1.0, "unit_change": 1e30}
    seen, _ = bits_after(site, FINITE, torch.zeros(len(FINITE)), **fallen)
    signs = float8.numbers(FINITE).sign()
    assert torch.equal(float8.numbers(seen.cpu()), signs * LARGEST)


def test_mean_is_kept(rng: np.random.Generator) -> None:
    """Each element's roundings, step after step, add up to no more than chance has it."""
    size, steps = 1000, 300
    exact = np.exp2(rng.uniform(-21.0, 0.7, size)).astype(np.float16).astype(np.float64)
    exact *= rng.choice([-1.0, 1.0], size)
    values = torch.from_numpy(exact).float()
    below = np.searchsorted(SIZES, abs(exact), side="right") - 1
    share = (abs(exact) - SIZES[below]) / (SIZES[below + 1] - SIZES[below])
    first, origin = int(rng.integers(1, 2**20)), int(rng.integers(2**40))
    errors = np.zeros(size)
    for step in range(first, first + steps):
        bits = random.in_float8(values, origin, torch.tensor(step)).numpy().astype(int)
        up = (bits & 0x7F) - below
        assert set(up) <= {0, 1}
        errors += up - share
    variances = steps * share * (1.0 - share)
    # 1000 sums, each beyond its bound with a probability below 2 exp(-30): 2e-10 in all
    assert (abs(errors) < L / 3.0 + np.sqrt(L * L / 9.0 + 2.0 * L * variances)).all()


def test_rounded_apart_from_the_squares(rng: np.random.Generator) -> None:
    """By other bits of the same word: whether one goes up says nothing about the other."""
    size = 20_000
    words = random_words(int(rng.integers(2**40)), size, int(rng.integers(1, 2**20)))
    square_goes_up = (words >> np.uint32(11)) >= 2**20
    velocity_goes_up = (words >> np.uint32(8) & np.uint32(0x7F)) >= 64
    both = float((square_goes_up & velocity_goes_up).mean())
    assert both == pytest.approx(0.25, abs=7.0 * (0.25 * 0.75 / size) ** 0.5)
