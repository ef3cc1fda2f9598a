"""Stages of a schedule, and what should stay constant over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from yfkernels._checks import finite, is_count, require, require_number

# Each value of an invariant may be off by this much, because stages are written with rounded
# numbers: .9, .947, .973, .986 as published deviate by 1.2% from a constant lr beta / (1 - beta).
_ROUNDING = 0.015


@dataclass(frozen=True)
class Stage:
    """One stage of a `MultistageSchedule`.

    Args:
        length: number of scheduler steps, >= 1.
        lr_factor: factor on every group's initial lr, > 0.
        beta: momentum of every group, in [0, 1); None leaves it unchanged.
        batch_size: samples in a batch, >= 1; None leaves it unchanged.

    Raises:
        ValueError: an argument out of its range.
    """

    length: int
    lr_factor: float = 1.0
    beta: float | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require(is_count(self.length), "length", self.length, "an integer >= 1")
        require_number("lr_factor", self.lr_factor)
        ok = finite(self.lr_factor) and self.lr_factor > 0.0
        require(ok, "lr_factor", self.lr_factor, "finite and > 0")
        # A plain float, so that a saved schedule loads with weights_only=True.
        object.__setattr__(self, "lr_factor", float(self.lr_factor))
        if self.beta is not None:
            require_number("beta", self.beta)
            require(0.0 <= self.beta < 1.0, "beta", self.beta, "in [0, 1)")
            object.__setattr__(self, "beta", float(self.beta))
        if self.batch_size is not None:
            require(is_count(self.batch_size), "batch_size", self.batch_size, "an integer >= 1")


def _real(value: float) -> tuple[float, float]:
    """The range of values that may have been rounded to this one."""
    return value * (1.0 - _ROUNDING), value * (1.0 + _ROUNDING)


def _lr_length(stage: Stage) -> tuple[float, float]:
    low, high = _real(stage.lr_factor)
    return low * (stage.length - 0.5), high * (stage.length + 0.5)


def _lr_beta(stage: Stage) -> tuple[float, float]:
    assert stage.beta is not None
    return _real(stage.lr_factor * stage.beta / (1.0 - stage.beta))


def _lr_batch(stage: Stage) -> tuple[float, float]:
    assert stage.batch_size is not None
    low, high = _real(stage.lr_factor)
    return low / (stage.batch_size + 0.5), high / (stage.batch_size - 0.5)


# What should stay constant over the stages: its name, its range in a stage, the field it involves.
_INVARIANTS: list[tuple[str, Callable[[Stage], tuple[float, float]], str]] = [
    ("lr_factor * length", _lr_length, "length"),
    ("lr_factor * beta / (1 - beta)", _lr_beta, "beta"),
    ("lr_factor / batch_size", _lr_batch, "batch_size"),
]


def check_constants(stages: Sequence[Stage]) -> None:
    """Raises ValueError where a product that should stay constant does not."""
    for name, range_in, part in _INVARIANTS:
        if getattr(stages[0], part) is None:
            continue
        low, high = range_in(stages[0])
        for index, stage in enumerate(stages):
            stage_low, stage_high = range_in(stage)
            low, high = max(low, stage_low), min(high, stage_high)
            if low > high:
                raise ValueError(
                    f"Invalid stages: {name} must stay constant, but stage {index} has "
                    f"lr_factor {stage.lr_factor!r} with {part} {getattr(stage, part)!r} after "
                    f"{stages[0].lr_factor!r} with {getattr(stages[0], part)!r} in stage 0; change "
                    "the stage, or pass check_invariants=False to use it anyway"
                )


def check_stages(stages: Any) -> None:
    """Raises TypeError or ValueError where these are no stages of one schedule."""
    if not isinstance(stages, Sequence):
        raise TypeError(f"Invalid stages type: {type(stages).__name__}; give a list of stages")
    ok = len(stages) >= 1 and all(isinstance(stage, Stage) for stage in stages)
    require(ok, "stages", stages, "at least one Stage, and nothing else")
    for part in ("beta", "batch_size"):
        given = [getattr(stage, part) is not None for stage in stages]
        if any(given) and not all(given):
            raise ValueError(
                f"Invalid stages: stage {given.index(False)} has no {part}, but stage "
                f"{given.index(True)} has; give it to all stages or none"
            )
