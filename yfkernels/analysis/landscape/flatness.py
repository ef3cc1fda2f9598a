"""Epsilon-flatness: how far the weights can go before the loss has risen by eps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import torch
from torch import Tensor

from yfkernels._checks import check_positive, check_whole, require
from yfkernels.analysis.landscape.progress import Progress, steps
from yfkernels.analysis.landscape.results import Flatness, described
from yfkernels.analysis.landscape.spectrum import LambdaMax
from yfkernels.analysis.landscape.surface import Surface, check_hvp
from yfkernels.analysis.landscape.vectors import Draws, Vector, norm

_FIRST = 0.01  # distance that is tried


@dataclass(frozen=True)
class EpsilonFlatness:
    """The distance along directions up to which f <= f(x) + eps.

    The unit of distance is ‖x‖. A random direction is Gaussian and filter-normalized: each filter
    of it (the part of a weight for one output) has the norm of that filter of x, and a vector such
    as a bias counts as one filter. The top eigenvector has the norm ‖x‖.

    The distance is bracketed by doubling or halving and then bisected, so a loss that rises and
    falls again between two tried distances is not noticed.

    Args:
        eps: the rise of the loss that is tolerated. 0.1 is ours.
        directions: random ones.
        limit: largest distance that is tried; inf is the result where the loss never rises.
        tolerance: relative error of a distance, which is rounded down.
        iterations: Hessian-vector products at most for the top eigenvector, as in `LambdaMax`.
        hvp: how products are computed; see `yfkernels.curvature.gradient_and_product`.

    Source: Hochreiter, Schmidhuber, "Flat minima" (Neural Computation 1997); Li et al.,
    "Visualizing the loss landscape of neural nets" (NeurIPS 2018) for the directions.
    """

    name: ClassVar[str] = "epsilon_flatness"

    eps: float = 0.1
    directions: int = 10
    limit: float = 10.0
    tolerance: float = 0.01
    iterations: int = 20
    hvp: str = "auto"

    def __post_init__(self) -> None:
        for name in ("eps", "limit", "tolerance"):
            check_positive(name, getattr(self, name))
        check_whole("directions", self.directions, least=1)
        check_whole("iterations", self.iterations, least=1)
        check_hvp(self.hvp)

    def __call__(self, surface: Surface, progress: Progress | None = None) -> Flatness:
        begin = surface.evaluations
        length = norm(surface.origin)
        require(
            length > 0.0, "model", length, "a norm of its weights above 0, the unit of distance"
        )
        draws = Draws(surface.params, surface.seed)
        distances = tuple(
            self._distance(surface, filter_normalized(draws.normal(), surface.origin), 1.0)
            for _ in steps(self.directions, progress)
        )
        top = LambdaMax(self.iterations, hvp=self.hvp).eigenpair(surface)
        ahead, back = (self._distance(surface, top.vector, side * length) for side in (1.0, -1.0))
        return Flatness(
            value=median(distances),
            distances=distances,
            along_top=(ahead, back),
            converged=top.converged,
            **described(self, surface, begin),
        )

    def _distance(self, surface: Surface, direction: Vector, unit: float) -> float:
        ceiling = surface.loss + self.eps

        def inside(distance: float) -> bool:
            with surface.displaced(direction, distance * unit):
                return surface.value(finite=False) <= ceiling  # NaN is outside

        low = high = min(_FIRST, self.limit)
        if inside(low):
            while inside(high):
                if high >= self.limit:
                    return math.inf
                low, high = high, min(2.0 * high, self.limit)
        else:
            while not inside(low):
                low, high = 0.5 * low, low
        while high > low * (1.0 + self.tolerance):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if inside(middle) else (low, middle)
        return low


def filter_normalized(direction: Vector, origin: Sequence[Tensor]) -> Vector:
    """The direction, each filter of it scaled to the norm of that filter of the weights."""
    for part, x in zip(direction, origin):
        dims = list(range(1, x.dim())) or None
        ratio = torch.linalg.vector_norm(x, dim=dims, keepdim=True) / torch.linalg.vector_norm(
            part, dim=dims, keepdim=True
        )
        part.mul_(ratio)
    return direction
