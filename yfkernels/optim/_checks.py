"""Checks of an optimizer's options: errors that name the argument, its value and the mend."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import Tensor


def require(ok: bool, name: str, value: object, mend: str) -> None:
    """Raises ValueError unless `ok`; `mend` completes "it must be ..."."""
    if not ok:
        raise ValueError(f"Invalid {name} value: {value!r}; it must be {mend}")


def require_number(name: str, value: Any) -> None:
    """Raises TypeError for what is neither a real number nor a tensor."""
    if not isinstance(value, Real | Tensor):
        raise TypeError(f"Invalid {name} type: {type(value).__name__} ({value!r}); give a number")


def finite(value: Any) -> bool:
    """Whether a number or one-element tensor is neither infinite nor NaN."""
    return math.isfinite(float(value))
