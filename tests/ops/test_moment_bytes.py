"""Moments in a byte each: every backend rounds the same numbers to the same bits.

Without memory the second moment is the square of the gradient and the first the gradient.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle.codes import ABSOLUTE, LARGEST, coded, in_float8, random_words, unit_of
from support.cases import Site
from torch import Tensor

from yfkernels.ops import float8
from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import ABSOLUTE_CODES
from yfkernels.ops.rules import LAMB_BYTES, QHADAM_BYTES, Rule
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.torch import random

ORIGINS = (0, 2**32 + 64)
EVERY = torch.arange(256, dtype=torch.uint8)
each_rule = pytest.mark.parametrize("rule", [QHADAM_BYTES, LAMB_BYTES], ids=lambda r: r.name)


def moments_after(
    rule: Rule,
    site: Site,
    moments: tuple[Tensor, Tensor],
    gradient: Tensor,
    *,
    origin: int = 0,
    taken: int = 0,
    betas: tuple[float, float] = (0.0, 0.0),
) -> tuple[Tensor, Tensor]:
    """The bytes of the first and the second moment after a step."""
    like = gradient.float().to(site.device)
    bits, codes = (moment.to(site.device).clone() for moment in moments)
    columns = {
        Column.PARAM: torch.zeros_like(like),
        Column.STATE: bits,
        Column.state(1): codes,
        Column.STEP: torch.full((), float(taken), device=site.device),
    }
    backend = backend_of(site.backend, site.device)
    table = TensorTable(backend, [Row(0, 0, origin, columns)])
    table.bind([like])
    backend.upload(table, Column.GRAD, [like.data_ptr()])
    beta1, beta2 = betas
    values = {
        **dict.fromkeys(rule.fields, 0.0),
        **{"active": 1.0, "grad_scale": 1.0, "eps": 1.0, "beta1": beta1, "beta2": beta2},
        **({"beta3": 1.0 - beta1} if rule is LAMB_BYTES else {}),
    }
    row = [values[name] for name in rule.fields]
    coefficients = torch.tensor([row], dtype=torch.float64, device=site.device)
    if rule is LAMB_BYTES:
        backend.update_state(rule, table, coefficients)
        backend.apply(rule, table, coefficients)
    else:
        backend.update(rule, table, coefficients)
    assert float(columns[Column.STEP]) == taken + 1.0
    return columns[Column.STATE].cpu(), columns[Column.state(1)].cpu()


def nothing(size: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)


@each_rule
@pytest.mark.parametrize("origin", ORIGINS)
def test_same_bits_on_every_backend(
    rule: Rule, origin: int, site: Site, rng: np.random.Generator
) -> None:
    """Gradients over all of the range, and beyond either end; over a chunk's end."""
    size = 1029 if site.interpreted else 65536 + 1029
    roots = np.exp2(rng.uniform(-45.0, 28.0, size)) * rng.choice([-1.0, 1.0], size)
    roots[:6] = (0.0, 1e-18, 2.0**-40, 2.0**23.5, 2.0**24, -1e18)
    g = torch.from_numpy(roots).float()
    for taken in (0, 999):
        words = random_words(origin, size, taken + 1)
        codes = coded(g.numpy() ** 2, words, ABSOLUTE)
        bits = in_float8(g.double().numpy() / unit_of(ABSOLUTE.values[codes]), words)
        seen = moments_after(rule, site, nothing(size), g, origin=origin, taken=taken)
        np.testing.assert_array_equal(seen[1].numpy(), codes)
        np.testing.assert_array_equal(seen[0].numpy() & 0x7F, bits & 0x7F)
        assert torch.equal(
            float8.numbers(seen[0]).sign(), float8.numbers(torch.tensor(bits)).sign()
        )


@each_rule
def test_every_byte_is_read(rule: Rule, site: Site) -> None:
    """Half of the first moment beside a quarter of the second is the same number of units."""
    bits = torch.where((EVERY & 0x7F) == 0x7F, 0, EVERY)  # but what is no number
    for code in range(4, 256, 9):
        codes = torch.full_like(bits, code)
        seen = moments_after(rule, site, (bits, codes), torch.zeros(256), betas=(0.5, 0.25))
        assert torch.equal(seen[1].int(), codes.int() - 4)
        assert torch.equal(float8.numbers(seen[0]), float8.numbers(bits))


def test_units_are_powers_of_two_next_to_the_root() -> None:
    values = random.decoded(EVERY, ABSOLUTE_CODES)
    seen = random.unit_of(values).double().numpy()
    np.testing.assert_array_equal(seen, unit_of(values.double().numpy()))
    share = np.sqrt(values.double().numpy()) * 64.0 / seen
    assert (share >= 0.5**0.5).all()
    assert (share < 2.0**0.5).all()


@each_rule
def test_what_is_too_large_is_clamped(rule: Rule, site: Site) -> None:
    """A gradient beyond the range of the squares, say."""
    g = torch.tensor([1e15, -1e15] * 20)
    bits, codes = moments_after(rule, site, nothing(40), g)
    assert (codes == 255).all()
    assert torch.equal(float8.numbers(bits), LARGEST * g.sign())
