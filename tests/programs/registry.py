"""All that a program may do, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from programs.pairs import Pair
from programs.side import Side

Do = Callable[[Side, np.random.Generator], None]


@dataclass(frozen=True)
class Action:
    """Something a program does to each side, with the same random draws.

    Attributes:
        neutral: it must make no difference, so only the subject does it.
        needs: what both optimizers have to be able to do, one of `Pair.can`.
        ours: torch's own optimizers cannot be asked for it.
        loads: it loads what was saved just before, which has to change nothing.
    """

    name: str
    do: Do
    weight: float
    neutral: bool
    needs: str
    ours: bool
    loads: bool

    def suits(self, pair: Pair) -> bool:
        able = not self.needs or self.needs in pair.can
        return able and not (self.ours and pair.backend is None)


ACTIONS: dict[str, Action] = {}


def action(
    weight: float = 1.0,
    *,
    neutral: bool = False,
    needs: str = "",
    ours: bool = False,
    loads: bool = False,
) -> Callable[[Do], Do]:
    """Registers a function under its own name; `weight` says how often it is drawn."""

    def register(do: Do) -> Do:
        ACTIONS[do.__name__] = Action(do.__name__, do, weight, neutral, needs, ours, loads)
        return do

    return register


def one_of(rng: np.random.Generator, number: int) -> int:
    return int(rng.integers(number))
