"""Averages of squares in 8 bits: what the codes stand for, and how a number becomes one of them.

Four codes to the octave, from 2^-37 on. A number between two of them goes up with a probability
that keeps the mean: if its share of the way, in steps of 2^-21, and the upper 21 of 32 random bits
reach 1 together. Below the first it is the first, above the last the last.
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
