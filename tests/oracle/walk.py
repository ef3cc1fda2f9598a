"""What the oracles of LAMB, QHM and QHAdam share: all of a step but the rule of one parameter.

Plain float64 NumPy that shares no code with the package.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from oracle.elements import origins
from oracle.vectors import Array, is_finite, norm_of


@dataclass
class Group:
    """One parameter group: flat float64 parameters in memory order, and the common settings."""

    params: list[Array]
    lr: float = 1.0
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    maximize: bool = False
    steps: list[int] = field(init=False)  # each parameter counts its own
    path: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in self.params]
        self.steps = [0] * len(self.params)
        # How far each element has travelled, as if no two terms of a move ever cancelled: what
        # rounding errors are relative to.
        self.path = self.zeros()

    def zeros(self) -> list[Array]:
        return [np.zeros_like(p) for p in self.params]


@dataclass
class Trace:
    """What one taken step saw; lists run over the parameters, group after group."""

    grad_norm: float  # of the unscaled gradients, before clipping; nan if nothing asked for it
    steps: list[int]
    skipped_steps: int


G = TypeVar("G", bound=Group)
T = TypeVar("T", bound=Trace)


class Oracle(ABC, Generic[G, T]):
    """`step` takes one gradient (or None) per parameter, group after group."""

    def __init__(self, groups: Sequence[G], *, skip_nonfinite: bool = False) -> None:
        self.groups = list(groups)
        self.skip_nonfinite = skip_nonfinite
        self.skipped_steps = 0
        self.last: T | None = None
        self.origin = 0  # of the elements, in the model, of the parameter that moves

    def add_group(self, group: G) -> None:
        self.groups.append(group)

    def step(
        self,
        gradients: Sequence[Array | None],
        *,
        grad_scale: float = 1.0,
        found_inf: bool = False,
        product_dtype: type[np.floating] = np.float32,
    ) -> T | None:
        """Take one step; None if it was skipped or no parameter has a gradient.

        When the norm is measured, a gradient whose square is not finite in `product_dtype` skips
        the step.
        """
        grads = [None if g is None else np.asarray(g, np.float64) / grad_scale for g in gradients]
        present = [g for g in grads if g is not None]
        if not present:
            return None
        measured = self.measures()
        if found_inf or (measured and not all(is_finite(g, product_dtype) for g in present)):
            self.skipped_steps += 1
            if self.last is not None:
                self.last.skipped_steps = self.skipped_steps
            return None

        norm = norm_of(present) if measured else math.nan
        todo = iter(zip(grads, origins([p.size for g in self.groups for p in g.params])))
        for group in self.groups:
            for i in range(len(group.params)):
                g, self.origin = next(todo)
                if g is not None:
                    group.steps[i] += 1
                    self.move(group, i, -g if group.maximize else g, norm)
        self.last = self.trace(norm)
        return self.last

    def all_steps(self) -> list[int]:
        return [step for group in self.groups for step in group.steps]

    def measures(self) -> bool:
        """Whether this step reads the global gradient norm."""
        return self.skip_nonfinite

    @abstractmethod
    def move(self, group: G, i: int, g: Array, norm: float) -> None:
        """Update parameter i of the group; g is unscaled and points uphill of the objective."""

    @abstractmethod
    def trace(self, norm: float) -> T:
        """The record of the step just taken."""


def decay(group: Group, i: int, g: Array) -> tuple[Array, Array]:
    """Weight decay of QHM and QHAdam: the gradient with it (if coupled), and its magnitude.

    Decoupled decay shrinks the parameter here and leaves the gradient alone.
    """
    p, wd = group.params[i], group.weight_decay
    if not group.decoupled_weight_decay:
        return g + wd * p, np.abs(g) + wd * np.abs(p)
    group.path[i] += group.lr * wd * np.abs(p)
    group.params[i] = p * (1.0 - group.lr * wd)
    return g, np.abs(g)
