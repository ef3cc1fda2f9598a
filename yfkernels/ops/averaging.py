"""Averages of the weights, as the backends see them; csrc/average.h has the same arithmetic.

    a <- a + c (x - a),   c = min(1, s (p + 1) / (t + p))

where x is the parameter after its step t. The average advances in the first s steps, where c is 1,
and in every s-th after them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from yfkernels._checks import check_whole, finite, require, require_number


@dataclass(frozen=True)
class WeightAverage:
    """An average of the weights over the steps, kept beside a training that does not change.

    The weight of step t grows as t^power: with 8, the average is over about the last ninth of all
    steps that have been taken, whenever it is read. Nobody has to say when training ends.

    Args:
        power: at least 0; 0 weighs all steps alike.
        every: of so many steps one counts, which costs 12 / every bytes a parameter and step.
        dtype: None keeps the average in float32, and that of float64 parameters in float64;
            torch.bfloat16 in half of the memory, rounded stochastically.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Source: Shamir & Zhang, "Stochastic gradient descent for non-smooth optimization: convergence
    results and optimal averaging schemes", ICML 2013 (polynomial-decay averaging).
    """

    power: float = 8.0
    every: int = 8
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        require_number("power", self.power)
        require(not isinstance(self.power, bool), "power", self.power, "a number, such as 8")
        good = finite(self.power) and self.power >= 0.0
        require(good, "power", self.power, "finite and >= 0; 0 weighs all steps alike")
        check_whole("every", self.every, least=1)
        known = self.dtype in (None, torch.float32, torch.bfloat16)
        require(known, "dtype", self.dtype, "None, for float32, or torch.bfloat16")

    def of(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of the average of a parameter whose state has `dtype`."""
        return torch.bfloat16 if self.dtype == torch.bfloat16 else dtype

    def is_due(self, step: Any) -> Any:
        """Whether the average advances after a step, an integer or a tensor, from 1."""
        return (step <= self.every) | (step % self.every == 0)

    def share(self, step: Any) -> Any:
        """c of that step, before it is capped at 1."""
        return self.every * (self.power + 1.0) / (step + self.power)

    def settings(self) -> dict[str, Any]:
        """As parameter groups and state_dicts have it, in plain types."""
        name = "bfloat16" if self.dtype == torch.bfloat16 else None
        return {"power": float(self.power), "every": int(self.every), "dtype": name}
