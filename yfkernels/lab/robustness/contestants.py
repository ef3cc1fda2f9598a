"""The optimizers of the experiment: what each is tuned over, and how a setting builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from yfkernels.lab.recipes import RECIPES

SQUARES = 0.999  # Adam's second beta, at torch's default


class Setting(NamedTuple):
    """A learning rate, and a momentum where the optimizer is told one: Adam's first beta."""

    lr: float
    momentum: float | None = None


@dataclass(frozen=True)
class Contestant:
    """One optimizer.

    Attributes:
        name: of `recipes.RECIPES`.
        lrs, momenta: the grid it is tuned on, both increasing; one of each where nothing is tuned.
        options: those of the optimizer that a momentum stands for.
    """

    name: str
    lrs: tuple[float, ...]
    momenta: tuple[float | None, ...]
    options: Callable[[float | None], Mapping[str, Any]]

    @property
    def label(self) -> str:
        """Its name for people."""
        return RECIPES[self.name].label

    @property
    def grid(self) -> list[Setting]:
        """What is tried to tune it; a single setting is not tried but taken."""
        return [Setting(lr, momentum) for momentum, lr in product(self.momenta, self.lrs)]

    def is_at_edge(self, setting: Setting) -> bool:
        """Whether a better one may lie outside the grid; there is no momentum below 0."""
        edges = {self.lrs[0], self.lrs[-1]} if len(self.lrs) > 1 else set()
        beyond = len(self.momenta) > 1 and setting.momentum == self.momenta[-1]
        return setting.lr in edges or beyond

    def build(self, model: nn.Module, setting: Setting) -> Optimizer:
        """The optimizer for a model."""
        given = self.options(setting.momentum)
        return RECIPES[self.name].with_options(lr=setting.lr, **given).build(model)


def rounded(value: float) -> float:
    """To four digits, so that a setting is the same wherever it is computed."""
    return float(f"{value:.4g}")


def half_decades(first: int, last: int) -> tuple[float, ...]:
    """10^(first/2) to 10^(last/2)."""
    return tuple(rounded(10.0 ** (half / 2.0)) for half in range(first, last + 1))


def momentum_below_one(gap: float) -> float:
    """1 - gap, without the rounding of the difference."""
    return round(1.0 - gap, 6)


MOMENTA = tuple(momentum_below_one(gap) for gap in reversed(half_decades(-4, 0)))
ADAM_LRS = half_decades(-8, -1)

# The same number of trials for all that are tuned: 8 learning rates by 5 momenta.
CONTESTANTS = {
    one.name: one
    for one in (
        Contestant("sgd", half_decades(-5, 2), MOMENTA, lambda mu: {"momentum": mu}),
        Contestant("adam", ADAM_LRS, MOMENTA, lambda beta: {"betas": (beta, SQUARES)}),
        Contestant("adamw", ADAM_LRS, MOMENTA, lambda beta: {"betas": (beta, SQUARES)}),
        Contestant("yellowfin", (1.0,), (None,), lambda _: {}),
    )
}
