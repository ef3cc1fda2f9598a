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


@pytest.mark.parametrize("lengths", [(0,), (0, 0), (1,), (3, 0, 15), (16, 17), (100, 1, 899)])
def test_all_of_a_small_model(lengths: tuple[int, ...]) -> None:
    flats = numbered(*lengths)
    assert drawn(flats, 1000, 0) == list(range(sum(lengths)))


@pytest.mark.parametrize("lengths", [(100_000,), (50_000, 1, 310, 49_689), (40_960,) * 3])
def test_runs_of_a_large_one(lengths: tuple[int, ...], rng: np.random.Generator) -> None:
    flats = numbered(*lengths)
    seed = int(rng.integers(2**31))
    places = drawn(flats, 10_000, seed)
    assert places == sorted(set(places))
    assert len(places) == pytest.approx(10_000, abs=468)  # the last runs of tensors are short
    (breaks,) = np.nonzero(np.diff(places) > 1)
    assert len(breaks) <= 65  # 10,000 of them in runs of 156
    widest = max(np.diff([0, *places, sum(lengths)]))
    assert widest <= 2 * sum(lengths) / 64 + 156  # two stretches
    assert places == drawn(flats, 10_000, seed)
    assert places != drawn(flats, 10_000, seed + 1)


def test_of_tensors_smaller_than_a_run_some_are_drawn(rng: np.random.Generator) -> None:
    flats = numbered(*[7] * 5_000)
    places = drawn(flats, 1_600, int(rng.integers(2**31)))
    assert len(places) == len(set(places)) == 7 * 229  # 1,600 of 35,000, as whole tensors
    assert {place % 7 for place in places[::7]} == {0}
    assert places[0] < 320
    assert places[-1] > 34_680


@pytest.mark.parametrize("coordinates", [1, 5, 100])
def test_few_coordinates_are_drawn_one_by_one(coordinates: int) -> None:
    places = drawn(numbered(10_000), coordinates, 0)
    assert len(set(places)) == coordinates


def test_dtypes_and_their_resolution() -> None:
    flats = [torch.ones(4, dtype=torch.bfloat16), torch.full((3,), 2.0)]
    sample = Sample(flats, 100, 0)
    assert sample.of(flats).tolist() == [1.0] * 4 + [2.0] * 3
    assert sample.of(flats).dtype == torch.float32
    assert sample.resolution.tolist() == [2.0**-7] * 4 + [2.0**-23] * 3
    assert Sample([flats[1], flats[1].double()], 100, 0).dtype == torch.float64
