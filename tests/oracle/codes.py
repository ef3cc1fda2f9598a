"""State in 8 bits: what codes and float8 stand for, and how a number becomes one of them.

Codes are of averages of squares: four to the octave, from 2^-37 on. A number between two of them
goes up with a probability that keeps the mean: if its share of the way, in steps of 2^-21, and the
upper 21 of 32 random bits reach 1 together. Below the first it is the first, above the last the
last.

Float8 is of velocities: a sign, five bits of exponent, two of mantissa. A number becomes a float16
first; between two of float8 it goes away from zero if its share of the way, in steps of 2^-8, and
bits 8 to 15 of the same word reach 1 together. Above the largest it is the largest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oracle.elements import Words, mixed
from oracle.vectors import Array

Codes = NDArray[np.uint8]

_CODE = np.arange(256)
WIDTHS: Array = np.ldexp(0.25, _CODE // 4 - 37)  # from each value to the next
VALUES: Array = WIDTHS * (4 + _CODE % 4)


_MAGNITUDE = np.arange(0x7C)  # of float8; the next one would be infinity
SIZES: Array = np.where(
    _MAGNITUDE < 4,
    np.ldexp(_MAGNITUDE.astype(float), -16),
    np.ldexp(4.0 + _MAGNITUDE % 4, _MAGNITUDE // 4 - 17),
)
LARGEST = float(SIZES[-1])


def random_words(origin: int, size: int, step: int) -> Words:
    """32 random bits for each element of a tensor in its step number `step`, from 1."""
    element = np.arange(origin, origin + size, dtype=np.uint64)
    stretch = (element >> np.uint64(32)).astype(np.uint32)
    low = element.astype(np.uint32)  # modulo 2^32, as all that follows
    seed = mixed(mixed(np.full(size, step, np.uint32)) + stretch)
    return (low + seed) * np.uint32(0x9E3779B1)


def coded(values: Array, words: Words) -> Codes:
    """The codes of float32 numbers that are not negative; others are taken to the nearest."""
    values = values.astype(np.float32).astype(np.float64)
    below = np.maximum(np.searchsorted(VALUES, values, side="right") - 1, 0)
    share = (values - VALUES[below]) / WIDTHS[below]
    draw = (words >> np.uint32(11)) / 2.0**21
    codes: Codes = np.minimum(below + (share + draw >= 1.0), 255).astype(np.uint8)
    return codes


def numbers_of_float8(bits: Codes) -> Array:
    """What the bits of float8 stand for."""
    return np.where(bits >= 0x80, -1.0, 1.0) * SIZES[bits & 0x7F]


def in_float8(values: Array, words: Words) -> Codes:
    """The bits of float8 that float32 numbers become."""
    halves = np.clip(values.astype(np.float32), -LARGEST, LARGEST).astype(np.float16)
    size = np.abs(halves).astype(np.float64)
    below = np.searchsorted(SIZES, size, side="right") - 1
    above = np.minimum(below + 1, len(SIZES) - 1)
    with np.errstate(invalid="ignore"):
        share = np.where(above > below, (size - SIZES[below]) / (SIZES[above] - SIZES[below]), 0.0)
    bits = below + (share + (words >> np.uint32(8) & np.uint32(0xFF)) / 256.0 >= 1.0)
    negative = np.signbit(halves)
    result: Codes = (bits | np.where(negative, 0x80, 0)).astype(np.uint8)
    return result
