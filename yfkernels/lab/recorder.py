"""Recording scalars over the course of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Series:
    """One scalar over the steps at which it was recorded.

    Attributes:
        steps: int64, (n,), increasing.
        values: float64, (n,).
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def smoothed(self, window: int) -> Series:
        """The mean over the last ``window`` values, over all so far where there are fewer.

        A trailing mean looks only backwards, so the step at which it passes a threshold is one
        that could have been seen while training.

        Args:
            window: number of values, at least 1.
        """
        # Not by differences of a running sum: one NaN or overflow would spoil all that follows.
        means = [
            self.values[max(0, end - window) : end].mean() for end in range(1, len(self.values) + 1)
        ]
        return Series(self.steps, np.array(means))

    def first_step_at_most(self, target: float) -> int | None:
        """The first step whose value is ``target`` or less; None if there is none."""
        reached = self.values <= target
        return int(self.steps[reached.argmax()]) if reached.any() else None


class Recorder:
    """Keeps named scalars, step by step.

    Works with any mapping of names to floats, such as ``YellowFin.diagnostics()``. Names may be
    recorded at different steps: a loss at every one, an accuracy at every fiftieth.

    Example:
        >>> recorder = Recorder()
        >>> for step, loss in enumerate([2.0, 1.0, 0.5], start=1):
        ...     recorder.record(step, {"loss": loss})  # and **optimizer.diagnostics()
        >>> recorder["loss"].first_step_at_most(1.0)
        2
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[int, float]]] = {}

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one step's values.

        Args:
            step: number of the step; must grow for every name.
            values: names and floats.

        Raises:
            ValueError: a name was already recorded at this step or a later one.
        """
        for name in values:
            if name in self._rows and step <= self._rows[name][-1][0]:
                raise ValueError(
                    f"step {step} of {name!r} comes after step {self._rows[name][-1][0]}; "
                    "record steps in increasing order, each name once a step"
                )
        for name, value in values.items():
            self._rows.setdefault(name, []).append((step, value))

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Series:
        """The series of a name.

        Raises:
            KeyError: nothing was recorded under this name.
        """
        if name not in self._rows:
            recorded = ", ".join(self._rows) or "nothing"
            raise KeyError(f"no series {name!r}; recorded: {recorded}")
        steps, values = zip(*self._rows[name], strict=True)
        return Series(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))
