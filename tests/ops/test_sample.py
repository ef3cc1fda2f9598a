"""Coordinates that are drawn: how many, from where, and what of small tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from yfkernels.ops.sample import Sample


def numbered(*lengths: int) -> list[Tensor]:
    """Tensors that hold the number of each element in all of them."""
    flat = torch.arange(float(sum(lengths)), dtype=torch.float64)
    return [each.clone() for each in flat.split(list(lengths))]


def drawn(flats: list[Tensor], coordinates: int, seed: int) -> list[int]:
    return [int(each) for each in Sample(flats, coordinates, seed).of(flats)]


@pytest.mark.parametrize("lengths", [(1,), (3, 0, 15), (16, 17), (100, 1, 899)])
def test_all_of_a_small_model(lengths: tuple[int, ...]) -> None:
    flats = numbered(*lengths)
    assert drawn(flats, 1000, 0) == list(range(sum(lengths)))


@pytest.mark.parametrize("lengths", [(10_000,), (5_000, 1, 31, 4_968), (4_096,) * 3])
def test_lines_of_a_large_one(lengths: tuple[int, ...], rng: np.random.Generator) -> None:
    flats = numbered(*lengths)
    seed = int(rng.integers(2**31))
    places = drawn(flats, 1_600, seed)
    assert places == sorted(set(places))
    assert len(places) == 1_600
    for first in range(0, len(places), 16):
        assert np.diff(places[first : first + 16]).tolist() == [1] * 15
    widest = max(np.diff([0, *places, sum(lengths)]))
    assert widest <= 2 * (sum(lengths) / 100) + 32  # two stretches, and what fills no line
    assert places == drawn(flats, 1_600, seed)
    assert places != drawn(flats, 1_600, seed + 1)


def test_tensors_too_small_for_lines(rng: np.random.Generator) -> None:
    """Single coordinates then."""
    flats = numbered(*[7] * 500)
    places = drawn(flats, 1_600, int(rng.integers(2**31)))
    assert len(places) == len(set(places)) == 1_600
    assert places[0] < 3
    assert places[-1] > 3_496


def test_dtypes_and_their_resolution() -> None:
    flats = [torch.ones(4, dtype=torch.bfloat16), torch.full((3,), 2.0)]
    sample = Sample(flats, 100, 0)
    assert sample.of(flats).tolist() == [1.0] * 4 + [2.0] * 3
    assert sample.of(flats).dtype == torch.float32
    assert sample.resolution.tolist() == [2.0**-7] * 4 + [2.0**-23] * 3
    assert Sample([flats[1], flats[1].double()], 100, 0).dtype == torch.float64
