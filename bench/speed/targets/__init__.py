"""The speed and memory that were promised, each checked against what was measured."""

from __future__ import annotations

from collections.abc import Container, Mapping

from bench.speed.contestants import CONTESTANTS
from bench.speed.result import RaceResult
from bench.speed.targets import lamb, qhm, yellowfin
from bench.speed.targets.target import Target, Verdict

__all__ = ["TARGETS", "Target", "Verdict", "check"]

TARGETS = (*yellowfin.TARGETS, *lamb.TARGETS, *qhm.TARGETS)


def check(
    results: Mapping[str, RaceResult], device: str, contestants: Container[str] = CONTESTANTS
) -> list[Verdict]:
    """Compare targets with what was measured.

    Args:
        results: keyed by the name of their size.
        device: kind of device; targets of others are left out.
        contestants: who was to take part; targets of others are left out.
    """
    return [
        Verdict(target, _measured(target, results))
        for target in TARGETS
        if target.device == device and target.contestant in contestants
    ]


def _measured(target: Target, results: Mapping[str, RaceResult]) -> float | None:
    try:
        return target.measured(results[target.size])
    except KeyError:
        return None
