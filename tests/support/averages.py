"""A training whose averages of the weights are compared with their definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from support.cases import Site, Spec, make_parameter, normal
from yfkernels import WeightAverage

Build = Callable[..., Any]
Present = Callable[[int], bool]


def expected(weights: Sequence[NDArray[np.float64]], average: WeightAverage) -> Any:
    """The average after these steps, by its definition."""
    found = weights[0]
    for step, x in enumerate(weights, 1):
        if step <= average.every or step % average.every == 0:
            share = average.every * (average.power + 1.0) / (step + average.power)
            found = x if share >= 1.0 else found + share * (x - found)
    return found


def everywhere(index: int) -> bool:
    """Every parameter has a gradient."""
    return True


class Training:
    """Parameters whose gradients are random, and their values after every step that counted."""

    def __init__(
        self, build: Build, site: Site, rng: np.random.Generator, *of: Spec, **options: Any
    ) -> None:
        self.rng, self.site = rng, site
        self.params = [make_parameter(spec, rng, site.device)[0] for spec in of]
        self.optimizer = build(self.params, backend=site.backend, **options)
        self.weights: list[list[Any]] = [[] for _ in self.params]

    def step(self, present: Present = everywhere, factor: float = 1.0) -> None:
        for index, p in enumerate(self.params):
            p.grad = None
            if present(index):
                p.grad = torch.empty_like(p).copy_(normal(self.rng, p) * factor)
        self.optimizer.step()

    def record(self, present: Present = everywhere) -> None:
        for index, p in enumerate(self.params):
            if present(index):
                newest = self.optimizer.state[p].get("master", p)
                self.weights[index].append(newest.detach().double().cpu().numpy().copy())

    def run(self, steps: int, present: Present = everywhere) -> None:
        for _ in range(steps):
            self.step(present)
            self.record(present)

    def averages(self) -> list[Any]:
        return [self.optimizer.state[p]["param_avg"] for p in self.params]

    def compare(self, average: WeightAverage, tolerance: float) -> None:
        for found, weights in zip(self.averages(), self.weights, strict=True):
            known = expected(weights, average)
            scale = max(1.0, *(float(np.abs(w).max(initial=0.0)) for w in weights))
            error = np.abs(found.double().cpu().numpy() - known).max(initial=0.0)
            assert error <= tolerance * scale, (error, scale)
