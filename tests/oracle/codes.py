"""State in 8 bits: what codes and float8 stand for, and how a number becomes one of them.

Codes are of averages of squares. Relative ones: four to the octave, from 2^-37 on; absolute ones:
two to the octave, from 2^-80 on. A number between two of them goes up with a probability that keeps
the mean: if its share of the way, in steps of 2^-21 or 2^-22, and as many upper bits of 32 random
ones reach 1 together. Below the first it is the first, above the last the last.

Float8 is of velocities and first moments: a sign, four bits of exponent, three of mantissa, up to
1.75. A number becomes a float16 first; between two of float8 it goes away from zero if its share of
the way, in steps of 2^-7, and bits 8 to 14 of the same word reach 1 together. Above the largest it
is the largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oracle.elements import Words, mixed
from oracle.vectors import Array

Codes = NDArray[np.uint8]

_CODE = np.arange(256)


@dataclass(frozen=True)
class Book:
    """What 256 codes stand for; widths: from each value to the next; draws: random bits."""

    values: Array
    widths: Array
    draws: int


def _book(to_the_octave: int, least: int, draws: int) -> Book:
    widths = np.ldexp(1.0 / to_the_octave, _CODE // to_the_octave - least)
    return Book(widths * (to_the_octave + _CODE % to_the_octave), widths, draws)


RELATIVE, ABSOLUTE = _book(4, 37, 21), _book(2, 80, 22)
WIDTHS, VALUES = RELATIVE.widths, RELATIVE.values

_MAGNITUDE = np.arange(0x7F)  # of float8; the next one would be no number
SIZES: Array = np.where(
    _MAGNITUDE < 8,
    np.ldexp(_MAGNITUDE.astype(float), -17),
    np.ldexp(8.0 + _MAGNITUDE % 8, _MAGNITUDE // 8 - 18),
)
LARGEST = float(SIZES[-1])


def random_words(origin: int, size: int, step: int) -> Words:
    """32 random bits for each element of a tensor in its step number `step`, from 1."""
    element = np.arange(origin, origin + size, dtype=np.uint64)
    stretch = (element >> np.uint64(32)).astype(np.uint32)
    low = element.astype(np.uint32)  # modulo 2^32, as all that follows
    seed = mixed(mixed(np.full(size, step, np.uint32)) + stretch)
    return (low + seed) * np.uint32(0x9E3779B1)


def coded(values: Array, words: Words, book: Book = RELATIVE) -> Codes:
    """The codes of float32 numbers that are not negative; others are taken to the nearest."""
    values = values.astype(np.float32).astype(np.float64)
    below = np.maximum(np.searchsorted(book.values, values, side="right") - 1, 0)
    share = (values - book.values[below]) / book.widths[below]
    draw = (words >> np.uint32(32 - book.draws)) / 2.0**book.draws
    codes: Codes = np.minimum(below + (share + draw >= 1.0), 255).astype(np.uint8)
    return codes


def unit_of(squares: Array) -> Array:
    """What a first moment is counted in: 64 times the power of two next to the root of the second.

    Of v in [1/2, 2) times a power of four that power's root.
    """
    return np.ldexp(64.0, np.frexp(squares)[1] // 2)


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
    bits = below + (share + (words >> np.uint32(8) & np.uint32(0x7F)) / 128.0 >= 1.0)
    negative = np.signbit(halves)
    result: Codes = (bits | np.where(negative, 0x80, 0)).astype(np.uint8)
    return result
