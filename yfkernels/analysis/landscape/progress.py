"""How far a measurement is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], object]  # steps done, steps at most


def steps(total: int, progress: Progress | None) -> Iterator[int]:
    """The numbers of the steps; `progress` is called after each."""
    for step in range(total):
        yield step
        if progress is not None:
            progress(step + 1, total)
