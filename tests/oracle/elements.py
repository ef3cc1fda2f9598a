"""Where the elements of a model are counted from, and the hash that random bits come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUCKETS = 4096  # of the sketch
Words = NDArray[np.uint32]


def origins(sizes: Sequence[int]) -> list[int]:
    """The index of each tensor's first element in the whole model.

    A tensor starts at a multiple of the bucket count, one smaller than that at a multiple of 32.
    """
    found, end = [], 0
    for size in sizes:
        step = BUCKETS if size >= BUCKETS else 32
        found.append(-(-end // step) * step)
        end = found[-1] + size
    return found


def mixed(x: Words) -> Words:
    """A hash of every word."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
