"""A promise, and whether a run kept it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from bench.speed.result import RaceResult

LARGE, LAYERS, MANY, HUGE = "1x50M", "50x1M", "400x64", "1x1G"
MODEL, BERT = "resnet50", "bert-large"


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        device: kind of device it holds on.
        size: where it is measured.
        contestant: whose promise it is.
        claim: the promise in words.
        relation: "<=" or ">=".
        bound: the number promised.
        measured: takes that number from the race; KeyError if a contestant is missing.
    """

    device: str
    size: str
    contestant: str
    claim: str
    relation: str
    bound: float
    measured: Callable[[RaceResult], float]


@dataclass(frozen=True)
class Verdict:
    """A target and the number measured; None if this run could not tell."""

    target: Target
    measured: float | None

    @property
    def outcome(self) -> str:
        """`pass`, `FAIL` or `not measured`."""
        if self.measured is None:
            return "not measured"
        holds = {"<=": operator.le, ">=": operator.ge}[self.target.relation]
        return "pass" if holds(self.measured, self.target.bound) else "FAIL"
