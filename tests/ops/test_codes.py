"""Averages of squares in 8-bit codes: every backend rounds the same numbers to the same codes.

The rule is given coefficients with which s becomes just what a test wants: the square of the
gradient, or a half of what it was.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle.codes import ABSOLUTE, RELATIVE, Book, coded, random_words
from support.cases import Site, memory_order
from torch import Tensor

from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import ABSOLUTE_CODES, RELATIVE_CODES
from yfkernels.ops.rules import YELLOWFIN_COMPACT
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.torch import random

L = 30.0  # of Bernstein's bound: see test_stochastic_rounding.py
ORIGINS = (0, 4096, 2**32 + 64, 2**40)
ALL_CODES = torch.arange(256, dtype=torch.uint8)


def codes_after(
    site: Site,
    codes: Tensor,
    gradient: Tensor,
    *,
    origin: int = 0,
    taken: int = 0,
    decay: float = 0.0,
    gain: float = 1.0,
) -> Tensor:
    """One step in which s becomes decay * s + gain * g²."""
    like = gradient.float().to(site.device)
    columns = {
        Column.PARAM: torch.zeros_like(like),
        Column.STATE: torch.zeros_like(like),
        Column.state(1): torch.empty_like(like, dtype=torch.uint8).copy_(codes),
        Column.STEP: torch.full((), float(taken), device=site.device),
    }
    table = TensorTable(backend_of(site.backend, site.device), [Row(0, 0, origin, columns)])
    table.bind([like])
    pointers = [like.data_ptr()]
    backend = backend_of(site.backend, site.device)
    backend.upload(table, Column.GRAD, pointers)
    values = {
        **dict.fromkeys(YELLOWFIN_COMPACT.fields, 0.0),
        **dict.fromkeys(("active", "grad_scale", "param_keep", "param_gain"), 1.0),
        "average_decay": decay,
        "average_gain": gain,
    }
    row = [values[name] for name in YELLOWFIN_COMPACT.fields]
    coefficients = torch.tensor([row], dtype=torch.float64, device=site.device)
    backend.update(YELLOWFIN_COMPACT, table, coefficients)
    assert float(columns[Column.STEP]) == taken + 1.0
    return columns[Column.state(1)]


def draw_roots(rng: np.random.Generator, size: int) -> Tensor:
    """Gradients whose squares are all over the range of the codes, and beyond either end."""
    roots = np.exp2(rng.uniform(-24.0, 16.0, size)) * rng.choice([-1.0, 1.0], size)
    roots[:8] = (0.0, 1e-30, 2.0**-19, -(2.0**-18.5), 2.0**13.5, 2.0**14, -1e15, 1e18)
    return torch.from_numpy(roots).float()


each_format = pytest.mark.parametrize(
    ("book", "code_format"),
    [(RELATIVE, RELATIVE_CODES), (ABSOLUTE, ABSOLUTE_CODES)],
    ids=["relative", "absolute"],
)


@each_format
def test_table_of_values(book: Book, code_format: tuple[int, int]) -> None:
    seen = random.decoded(ALL_CODES, code_format)
    assert seen.dtype is torch.float32
    np.testing.assert_array_equal(seen.double().numpy(), book.values)


@each_format
@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_every_code_becomes_itself(
    step: int, origin: int, book: Book, code_format: tuple[int, int]
) -> None:
    """Whatever the random bits."""
    values = random.decoded(ALL_CODES, code_format)
    for shift in range(8):
        place = origin + 256 * shift, torch.tensor(step)
        assert torch.equal(random.coded(values, code_format, *place), ALL_CODES)


def test_every_code_is_read(site: Site) -> None:
    """A half of what it stands for is four codes below; there is nothing below the first."""
    for taken in (0, 1, 50):
        halved = codes_after(
            site, ALL_CODES, torch.zeros(256), taken=taken, decay=0.5, gain=0.0
        ).cpu()
        assert torch.equal(halved, (ALL_CODES.int() - 4).clamp(min=0).to(torch.uint8))


@pytest.mark.parametrize("origin", ORIGINS)
def test_same_codes_on_every_backend(origin: int, site: Site, rng: np.random.Generator) -> None:
    """Over a chunk's end, with all vectors full and some not; squares round as in NumPy."""
    size = 1029 if site.interpreted else 65536 + 1029
    for taken in (0, 999):
        roots = draw_roots(rng, size)
        squares = roots.numpy() ** 2
        expected = coded(squares, random_words(origin, size, taken + 1))
        seen = codes_after(site, torch.zeros(size), roots, origin=origin, taken=taken)
        np.testing.assert_array_equal(seen.cpu().numpy(), expected)
        step = torch.tensor(taken + 1.0)
        in_torch = random.coded(torch.from_numpy(squares), RELATIVE_CODES, origin, step)
        np.testing.assert_array_equal(in_torch.numpy(), expected)


def test_codes_go_by_the_place_in_memory(site: Site, rng: np.random.Generator) -> None:
    roots = draw_roots(rng, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
    roots = roots.contiguous(memory_format=torch.channels_last)
    expected = coded(memory_order(roots.square(), roots), random_words(0, 120, 1))
    seen = codes_after(site, torch.zeros_like(roots), roots)
    assert seen.stride() == roots.stride()
    np.testing.assert_array_equal(memory_order(seen, seen), expected)


def test_values_beyond_the_codes_are_clamped(site: Site) -> None:
    roots = torch.tensor([0.0, 1e-30, 2.0**-19, 2.0**13.5, 1e15, 1e18] * 50)
    for taken in range(3):
        seen = codes_after(site, torch.full((300,), 7), roots, taken=taken).view(50, 6)
        assert torch.equal(seen.cpu(), torch.tensor([0, 0, 0, 255, 255, 255]).expand(50, 6))


@each_format
def test_mean_is_kept(rng: np.random.Generator, book: Book, code_format: tuple[int, int]) -> None:
    """Each element's roundings, step after step, add up to no more than chance has it."""
    size, steps = 1000, 300
    ends = np.log2(book.values[[0, 255]])
    values = torch.from_numpy(np.exp2(rng.uniform(*ends, size))).float()
    exact = values.double().numpy()
    below = np.searchsorted(book.values, exact, side="right") - 1
    share = (exact - book.values[below]) / book.widths[below]
    first, origin = int(rng.integers(1, 2**20)), int(rng.integers(2**40))
    errors = np.zeros(size)
    for step in range(first, first + steps):
        codes = random.coded(values, code_format, origin, torch.tensor(step))
        up = codes.numpy().astype(int) - below
        assert set(up) <= {0, 1}
        errors += up - share
    variances = steps * share * (1.0 - share)
    # 1000 sums, each beyond its bound with a probability below 2 exp(-30): 2e-10 in all
    assert (abs(errors) < L / 3.0 + np.sqrt(L * L / 9.0 + 2.0 * L * variances)).all()


def test_steps_and_places_are_rounded_apart() -> None:
    """The same place in the same step: the same; any other is as good as another coin."""
    values = torch.full((1000,), 1.125)  # half of the way

    def at(origin: int, step: int) -> Tensor:
        return random.coded(values, RELATIVE_CODES, origin, torch.tensor(step)).double()

    assert torch.equal(at(64, 5), at(64, 5))
    for other in (at(64, 6), at(64, 7), at(64 + 2**32, 5)):
        differ = int((at(64, 5) != other).sum())
        assert 0 < differ < 1000
