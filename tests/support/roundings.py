"""How far sums of float32 terms may be off: by their terms' sizes, not by what is left of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

# Of a sum of squares, relatively: every chunk adds some dozens of floats, one after the other,
# before its partial sum goes to float64.
SUM_OFF = 2e-6


def square_sum_off(x: Array, off: Array) -> float:
    """How far the sum of x² may be off if each x is `off`.

    The x may be small differences of large terms: then so is their sum of squares, and its
    relative error has no bound.
    """
    terms = float(abs(x) @ off) * 2.0 + float(off @ off)
    return terms + SUM_OFF * (float(x @ x) + terms)


def assert_near(got: Any, wanted: Any, off: Any, where: str) -> None:
    """Every element is within `off`."""
    here = got.cpu() if isinstance(got, Tensor) else got
    gap = np.abs(np.asarray(here, np.float64) - wanted)
    worst = np.argmax(gap - off)
    assert np.all(gap <= off), (
        f"{where}, element {worst}: {np.ravel(gap)[worst]:.3e} off, "
        f"allowed {np.ravel(off)[worst]:.3e}"
    )


def assert_between(seen: Any, least: Any, most: Any) -> None:
    """Every element is one of what rounding may have made: least <= seen <= most."""
    wrong = (seen < least) | (seen > most)
    assert not wrong.any(), f"{seen[wrong]}, but {least[wrong]} to {most[wrong]} are possible"
