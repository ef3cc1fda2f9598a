"""What became of the pushes: how stale the applied ones were, why others were refused."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from yfkernels._checks import is_count, require
from yfkernels.asynchronous.push import Refusal


class PushLog:
    """Counts pushes.

    Args:
        recent: how many of the last stalenesses to keep, >= 1.

    Attributes:
        staleness: number of applied pushes for each staleness.
        recent: the stalenesses of the last applied pushes, the newest last.
        refusals: number of refused pushes for each reason.
    """

    def __init__(self, recent: int = 1000) -> None:
        require(is_count(recent), "recent", recent, "an integer >= 1")
        self.staleness: Counter[int] = Counter()
        self.recent: deque[int] = deque(maxlen=recent)
        self.refusals: Counter[Refusal] = Counter()

    @property
    def applied(self) -> int:
        """Number of applied pushes."""
        return self.staleness.total()

    @property
    def mean_staleness(self) -> float:
        """Over all applied pushes; 0 before the first."""
        versions = sum(staleness * count for staleness, count in self.staleness.items())
        return versions / max(self.applied, 1)

    def apply(self, staleness: int) -> None:
        """Counts an applied push."""
        self.staleness[staleness] += 1
        self.recent.append(staleness)

    def refuse(self, reason: Refusal) -> None:
        """Counts a refused push."""
        self.refusals[reason] += 1

    def state_dict(self) -> dict[str, Any]:
        """The counts, in plain types."""
        return {
            "staleness": dict(self.staleness),
            "recent": list(self.recent),
            "refusals": {reason.name: count for reason, count in self.refusals.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what state_dict() saved."""
        self.staleness = Counter(state_dict["staleness"])
        self.recent = deque(state_dict["recent"], maxlen=self.recent.maxlen)
        counts = state_dict["refusals"].items()
        self.refusals = Counter({Refusal[name]: count for name, count in counts})
