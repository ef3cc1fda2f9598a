"""Total momentum, of the optimizer and of the workers together, read from the parameters' moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from yfkernels._checks import is_count, require
from yfkernels.ops.sample import Sample
from yfkernels.tuners.total_momentum import RESOLVED, total_momentum


class TotalMomentum:
    """Estimates the momentum that explains the moves as those of synchronous training.

    A gradient that arrives now with staleness tau was taken at x(t - tau - 1), where the next move
    should have been the momentum's part of the move before, plus its own. So, over coordinates,

        mu = median of (x(t - tau) - x(t - tau - 1) - own) / (x(t - tau - 1) - x(t - tau - 2)),

    `own` being the part of a move that this gradient alone makes: -lr g for SGD and QHM, and
    -lr g / q in Adam's metric, as it was applied now.

    The history is that of a random sample of coordinates. Moves of less than 64 roundings of their
    parameter are left out. If fewer than 16 remain, and some were left out, the estimate is the
    median of all ratios, weighted by the sizes of the moves: the fit of least absolute error.

    Args:
        parameters: flat tensors, as they are before the first step.
        max_staleness: the largest staleness that can be read, >= 0; the history has two moves more.
        coordinates: how many to sample, >= 1; all if there are fewer.
        seed: determines which.

    Raises:
        ValueError: an argument out of its range.

    Source: Zhang, Mitliagkas, "YellowFin and the Art of Momentum Tuning", arXiv 1706.03471,
    section 4.

    Example:
        >>> x, lr, mu = torch.linspace(1, 2, 50), 0.1, 0.8
        >>> total, move = TotalMomentum([x], max_staleness=0), torch.zeros(50)
        >>> for _ in range(3):
        ...     own = -lr * x
        ...     move = mu * move + own
        ...     x = x + move
        ...     total.record([x])
        >>> round(total.estimate(own, staleness=0), 4)
        0.8
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        max_staleness: int,
        coordinates: int = 65_536,
        seed: int = 0,
    ) -> None:
        ok = max_staleness == 0 or is_count(max_staleness)
        require(ok, "max_staleness", max_staleness, "an integer >= 0")
        require(is_count(coordinates), "coordinates", coordinates, "an integer >= 1")
        self._sample = Sample(parameters, coordinates, seed)
        self._history: deque[Tensor] = deque(maxlen=max_staleness + 3)
        self.record(parameters)

    def sampled(self, flats: Sequence[Tensor]) -> Tensor:
        """The sampled coordinates of flat tensors, say a gradient; float64, of shape (drawn,)."""
        return self._sample.of(flats)

    def record(self, parameters: Sequence[Tensor]) -> None:
        """Takes the flat parameters after a step."""
        self._history.append(self._sample.of(parameters))

    def estimate(self, own: Tensor, staleness: int) -> float | None:
        """The total momentum as the gradient of the step last recorded shows it.

        Args:
            own: the part of a move that this gradient alone makes, sampled.
            staleness: its staleness, >= 0.

        Returns:
            None if the history does not reach back so far, or nothing has moved.
        """
        newest = len(self._history) - 1
        at = newest - staleness - 1
        if at < 1:
            return None
        before, here, after = (self._history[index] for index in (at - 1, at, at + 1))
        smallest = RESOLVED * self._sample.resolution * here.abs()
        return total_momentum(here - before, after - here, own, smallest)

    def state_dict(self) -> dict[str, Any]:
        """The history, of the coordinates that the seed determines."""
        return {"history": list(self._history)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where another one of the same arguments was saved."""
        self._history = deque(state_dict["history"], maxlen=self._history.maxlen)
