"""Codes, random words and places in the model against numbers worked out one by one."""

from __future__ import annotations

import numpy as np
import pytest

from oracle.codes import VALUES, WIDTHS, coded, random_words
from oracle.elements import origins


def words(*upper: int) -> np.ndarray:
    """Random words of which the upper 21 bits, which alone count, are given."""
    return np.array(upper, np.uint32) << np.uint32(11)


def test_values() -> None:
    assert VALUES[0] == 2.0**-37
    assert list(VALUES[148:153]) == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert VALUES[255] == 1.75 * 2.0**26
    np.testing.assert_array_equal(VALUES[1:], (VALUES + WIDTHS)[:-1])
    np.testing.assert_array_equal(VALUES, VALUES.astype(np.float32))


def test_rounding_by_hand() -> None:
    """1.0625 is a quarter of the way from code 148 to 149."""
    quarter = 2**21 // 4
    upper = [0, 3 * quarter - 1, 3 * quarter, 2**21 - 1]
    values = np.full(4, 1.0625)
    assert coded(values, words(*upper)).tolist() == [148, 148, 149, 149]


def test_smallest_share_needs_every_random_bit() -> None:
    """The next float32 after 1 is 2^-21 of the way up."""
    values = np.full(2, 1.0 + 2.0**-23)
    assert coded(values, words(2**21 - 2, 2**21 - 1)).tolist() == [148, 149]


def test_ends() -> None:
    values = np.array([0.0, 1e-38, 2.0**-37 * 0.999, 2.0**27, 1e30])
    for upper in (0, 2**21 - 1):
        assert coded(values, words(*[upper] * 5)).tolist() == [0, 0, 0, 255, 255]


def mixed_by_hand(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


@pytest.mark.parametrize("origin", [0, 96, 2**32 - 2, 5 * 2**32 + 4096])
@pytest.mark.parametrize("step", [1, 2, 70_000])
def test_random_words_one_by_one(origin: int, step: int) -> None:
    expected = []
    for element in range(origin, origin + 4):
        seed = mixed_by_hand((mixed_by_hand(step) + element // 2**32) % 2**32)
        expected.append((element + seed) * 0x9E3779B1 % 2**32)
    assert random_words(origin, 4, step).tolist() == expected


def test_origins() -> None:
    assert origins([3, 33, 0, 5000, 1, 4096]) == [0, 32, 96, 4096, 9120, 12288]
