"""Stochastic rounding in NumPy: to halves and to 8-bit codes, by the random bits of a counter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Grid:
    """Numbers to round to, evenly spread between powers of two.

    Attributes:
        least: no two are closer than there.
        eps: their distance from 1 to 2.
    """

    least: float
    eps: float


RELATIVE_CODES = Grid(2.0**-37, 0.25)
ABSOLUTE_CODES = Grid(2.0**-80, 0.5)
FLOAT8 = Grid(2.0**-14, 0.125)


def grid_of(dtype: torch.dtype) -> Grid:
    """That of a half precision."""
    info = torch.finfo(dtype)
    return Grid(info.smallest_normal, info.eps)


def rounded_randomly(x: NDArray[np.float32], dtype: torch.dtype, first: int, step: int) -> Tensor:
    """x as halves, each a neighbour that random bits have chosen.

    first: index of the first element in the model; step: from 1.
    """
    kept = {torch.bfloat16: 16, torch.float16: 13}[dtype]  # bits of the float that fall away
    random = _mixed(_elements(first, len(x)) ^ _seed(first, step)) & np.uint32((1 << kept) - 1)
    size = torch.from_numpy(np.abs(x))
    down = size.to(dtype)
    over = down.float() > size
    down = torch.where(over, (down.view(torch.int16) - 1).view(dtype), down)
    up = (down.view(torch.int16) + 1).view(dtype)
    share = ((size - down.float()) / (up.float() - down.float())).numpy()
    goes_up = torch.from_numpy(share.astype(np.float64) + random / 2.0**kept >= 1.0)
    return torch.where(goes_up, up, down) * torch.from_numpy(np.where(np.signbit(x), -1.0, 1.0)).to(
        dtype
    )


def coded_randomly(
    x: NDArray[np.float32], first: int, step: int, grid: Grid = RELATIVE_CODES
) -> NDArray[np.uint8]:
    """x, which is not negative, in codes: likewise."""
    words = (_elements(first, len(x)) + _seed(first, step)) * np.uint32(0x9E3779B1)
    per_octave = 1.0 / grid.eps
    draws = 23 - int(np.log2(per_octave))
    # the first and the last code stand for all that is beyond them
    ends = decoded(np.array([0, 255]), grid)
    fraction, exponent = np.frexp(np.clip(x.astype(np.float64), *ends))
    octave = exponent - 1.0 - np.log2(grid.least)
    place = per_octave * (octave + 2.0 * (fraction - 0.5))
    below = np.floor(place)
    return (below + (place - below + (words >> (32 - draws)) / 2.0**draws >= 1.0)).astype(np.uint8)


def in_float8_randomly(x: NDArray[np.float32], first: int, step: int) -> Array:
    """x in float8: likewise, of a float16 by bits 8 to 14."""
    random = ((_elements(first, len(x)) + _seed(first, step)) * np.uint32(0x9E3779B1)) >> 8 & 0x7F
    halves = np.abs(x.astype(np.float16)).view(np.uint16).astype(np.uint32)
    bits = np.minimum((halves + random) >> 7, 0x7E).astype(np.uint16) << 7
    return np.copysign(bits.view(np.float16).astype(np.float64), x)


def decoded(codes: NDArray[np.integer], grid: Grid = RELATIVE_CODES) -> Array:
    """What the codes stand for: four or two to each power of two."""
    per_octave = round(1.0 / grid.eps)
    return grid.least * np.ldexp(1.0 + codes % per_octave * grid.eps, codes // per_octave)


def assert_few_tipped(got: Array, wanted: Array, off: Array, grid: Grid, where: str) -> None:
    """Rounded with the same random bits, floats that are `off` seldom come out differently.

    The share of bits that tips one is its error over the distance on the grid. Their number is
    below m + 7 sqrt(m) + 12 for a mean of m, by Chernoff's bound but for one time in 1e9.
    """
    unit = np.exp2(np.floor(np.log2(np.maximum(abs(wanted), grid.least)))) * grid.eps
    mean = float(np.minimum(2.0 * off / unit, 1.0).sum())  # half as wide just below a power of two
    assert (got != wanted).sum() <= mean + 7.0 * math.sqrt(mean) + 12.0, where
    assert np.all(abs(got - wanted) <= unit + off), where


def _mixed(x: Words) -> Words:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x


def _seed(first: int, step: int) -> Words:
    return _mixed(_mixed(np.array([step], np.uint32)) + np.uint32(first >> 32))


def _elements(first: int, count: int) -> Words:
    return np.arange(first, first + count).astype(np.uint32)
