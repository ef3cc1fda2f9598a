"""What every oracle asks of gradients: their norm, and whether they can be used."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def norm_of(vectors: Sequence[Array | None]) -> float:
    """Of all of them together; one that is None counts as nothing."""
    return math.sqrt(sum(float(v @ v) for v in vectors if v is not None))


def is_finite(gradient: Array, product_dtype: type[np.floating]) -> bool:
    """Whether the square of every entry is, in the dtype that products are made in."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.square(gradient.astype(product_dtype))).all())
