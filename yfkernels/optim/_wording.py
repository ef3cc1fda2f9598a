"""Words that all explanations have in common: sizes, names, numbers, notes on parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from yfkernels.optim._planner import names_of, params_of
from yfkernels.sharding.shards import local

_NAMED = 3  # parameters that a note names

Group = dict[str, Any]
Line = tuple[str, str]  # a label, which may be empty, and words


def with_notes(lines: list[str], notes: list[str]) -> str:
    """The text: what is so, then what to look at, if anything."""
    return "\n".join(lines + (["look at:", *(f"  - {note}" for note in notes)] if notes else []))


def aligned(told: list[Line]) -> list[str]:
    """Lines whose words begin in one column."""
    width = max(len(label) for label, _ in told) + 2
    return [f"  {label:<{width}}{words}" for label, words in told]


def class_name(optimizer: object) -> str:
    """Of the class here: frameworks derive their own from it."""
    ours = (kind for kind in type(optimizer).__mro__ if kind.__module__.startswith("yfkernels."))
    return next(ours).__name__


def size(group: Group) -> str:
    """Of a parameter group."""
    params = group["params"]
    elements = sum(param.numel() for param in params)
    return f"{len(params)} tensor{'s' if len(params) != 1 else ''} of {elements:,} elements"


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def of_parameters(groups: list[Group]) -> Iterator[str]:
    """A note on those that are broken."""
    broken = [
        name for name, param in named(groups) if not bool(local(param.detach()).isfinite().all())
    ]
    if broken:
        yield f"parameters that are not finite: {some(broken)}; go back to a checkpoint"


def named(groups: list[Group]) -> Iterator[tuple[str, Tensor]]:
    """Parameters by name, or by position."""
    for index, (name, param) in enumerate(zip(names_of(groups), params_of(groups))):
        yield name or f"number {index}", param


def some(names: list[str]) -> str:
    """The first few of them."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
