"""Sharpness while a model trains, beside what the optimizer says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from yfkernels._checks import check_whole
from yfkernels.analysis.landscape.measure import sharpness
from yfkernels.analysis.landscape.results import KeskarSharpness, Sharpness

MEASURES: Mapping[str, Mapping[str, Any]] = {"keskar": {}, "lambda_max": {}}


@dataclass(frozen=True)
class Reading:
    """What was measured after a step.

    Attributes:
        step: number of steps taken.
        loss: mean over the data of the monitor, at these weights in eval mode.
        results: by the names of the measures.
        diagnostics: of the optimizer, if it has them.
    """

    step: int
    loss: float
    results: Mapping[str, Sharpness]
    diagnostics: Mapping[str, float]

    def row(self) -> dict[str, float]:
        """All numbers by name, for a table or a logger; "adaptive" is the one beside Keskar's."""
        values = {name: result.value for name, result in self.results.items()}
        for result in self.results.values():
            if isinstance(result, KeskarSharpness):
                values["adaptive"] = result.adaptive.value
        return {**self.diagnostics, "step": self.step, "loss": self.loss, **values}


class SharpnessMonitor:
    """Measures sharpness every so many steps of an optimizer.

    The training is not changed by it: weights, modes, buffers, random states and gradients are what
    they were. It costs time: Keskar's measure some tens of gradients of the whole loader, and
    lambda_max up to twenty Hessian-vector products. Give it a part of the training data.

    Args:
        model, loss, loader: as `sharpness` takes them.
        optimizer: its steps are counted, and its `diagnostics()` noted, such as YellowFin's h_min,
            h_max, momentum and lr. With gradients accumulated it counts steps, not backwards.
        every: steps between two readings; None: only when `measure()` is called.
        measures: name of a method to its options; see `sharpness`. Default: Keskar's, with the
            adaptive one that it brings, and lambda_max.

    Attributes:
        readings: so far.

    Raises:
        TypeError, ValueError: `every` is not a whole number of at least 1, or as `sharpness` does,
            in the step that measures.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> batches = [(torch.randn(8, 2), torch.randn(8, 1))]
        >>> optimizer = yfkernels.YellowFin(model.parameters())
        >>> loss = torch.nn.functional.mse_loss
        >>> with SharpnessMonitor(model, loss, batches, optimizer, every=5) as monitor:
        ...     for _ in range(10):
        ...         optimizer.zero_grad()
        ...         loss(model(batches[0][0]), batches[0][1]).backward()
        ...         optimizer.step()
        >>> [reading.step for reading in monitor.readings]
        [5, 10]
        >>> sorted(monitor.readings[0].row())[:4]
        ['adaptive', 'clip_coefficient', 'distance', 'distance_traveled']
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        loader: Iterable[Any],
        optimizer: Optimizer,
        *,
        every: int | None = 100,
        measures: Mapping[str, Mapping[str, Any]] = MEASURES,
    ) -> None:
        if every is not None:
            check_whole("every", every, least=1)
        self.readings: list[Reading] = []
        self._measured = (model, loss, loader)
        self._optimizer = optimizer
        self._every = every
        self._measures = measures
        self._steps = 0
        self._handle = optimizer.register_step_post_hook(self._count)

    def __enter__(self) -> SharpnessMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Ends the monitoring; the readings stay."""
        self._handle.remove()

    def measure(self) -> Reading:
        """Takes a reading now, whatever the step."""
        results = {
            method: sharpness(*self._measured, method, **options)
            for method, options in self._measures.items()
        }
        told: Callable[[], Mapping[str, float]] = getattr(self._optimizer, "diagnostics", dict)
        loss = next(iter(results.values())).loss
        self.readings.append(Reading(self._steps, loss, results, told()))
        return self.readings[-1]

    def _count(self, *_: object) -> None:
        self._steps += 1
        if self._every is not None and self._steps % self._every == 0:
            self.measure()
