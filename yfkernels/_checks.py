"""Checks of arguments: errors that name the argument, its value and the fix."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def require(ok: bool, name: str, value: object, fix: str) -> None:
    """Raises ValueError unless `ok`; `fix` completes "it must be ..."."""
    if not ok:
        raise ValueError(f"Invalid {name} value: {value!r}; it must be {fix}")


def require_number(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is a real number or a tensor."""
    if not isinstance(value, Real | Tensor):
        raise TypeError(f"Invalid {name} type: {type(value).__name__} ({value!r}); give a number")


def is_count(value: object) -> bool:
    """Whether a value is an integer >= 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_whole(name: str, value: Any, *, least: int) -> None:
    """Raises unless `value` is an integer from `least` on."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"Invalid {name} type: {type(value).__name__} ({value!r}); give an int")
    require(value >= least, name, value, f"at least {least}")


def finite(value: Any) -> bool:
    """Whether a number or one-element tensor is neither infinite nor NaN."""
    return math.isfinite(float(value))


def check_fraction(name: str, value: Any) -> None:
    """Raises unless `value` is a number in [0, 1)."""
    require_number(name, value)
    require(0.0 <= value < 1.0, name, value, "in [0, 1)")


def check_betas(betas: Any) -> None:
    """Raises unless `betas` are two numbers in [0, 1)."""
    check_pair("betas", betas)
    for index, beta in enumerate(betas):
        check_fraction(f"betas[{index}]", beta)


def check_pair(name: str, value: Any) -> None:
    """Raises unless `value` is a pair of numbers."""
    ok = isinstance(value, tuple | list) and len(value) == 2
    require(ok, name, value, "a pair of numbers")
    for index, number in enumerate(value):
        require_number(f"{name}[{index}]", number)


def check_positive(name: str, value: Any) -> None:
    """Raises unless `value` is a finite number above 0."""
    require_number(name, value)
    require(finite(value) and value > 0.0, name, value, "finite and > 0")


def check_bound(name: str, value: Any) -> None:
    """Raises unless `value` can bound a norm: a number >= 0 or None; 0 and None mean no clip."""
    if value is None:
        return
    require_number(name, value)
    require(finite(value) and value >= 0.0, name, value, "finite and >= 0; 0 or None for no clip")


def require_equal_global(chosen: dict[str, Any], group: dict[str, Any], owner: str) -> None:
    """Raises ValueError if a parameter group overrides an option that is global.

    Args:
        chosen: the options that only the constructor takes, with their values.
        group: the parameter group. It may repeat such an option with the same value or None, as
            some wrappers do.
        owner: the optimizer's name.
    """
    for name in sorted(chosen.keys() & group.keys()):
        if group[name] is not None and group[name] != chosen[name]:
            raise ValueError(
                f"Invalid parameter group option: {name}={group[name]!r} is global in {owner}, "
                f"where it is {chosen[name]!r}; give it to the constructor"
            )


def refuse_sparse(grad: Tensor, index: int) -> None:
    """Raises RuntimeError for a sparse gradient."""
    if grad.layout is not torch.strided:
        raise RuntimeError(
            f"sparse gradients are not supported: parameter {index} of shape "
            f"{tuple(grad.shape)} has a gradient of layout {grad.layout}. "
            "Use sparse=False in the embedding, or call grad.to_dense() before step()"
        )
