"""The largest eigenvalue and the trace of the Hessian, from products with vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import ClassVar, NamedTuple

import torch

from yfkernels._checks import check_positive, check_whole
from yfkernels.analysis.landscape.progress import Progress, steps
from yfkernels.analysis.landscape.results import LargestCurvature, MeanSharpness, described
from yfkernels.analysis.landscape.surface import Surface, check_hvp
from yfkernels.analysis.landscape.vectors import Draws, Vector, dot, norm

_FEWEST = 10  # samples of a trace before their standard error is believed


class Eigenpair(NamedTuple):
    """A Rayleigh quotient, its unit vector v, ‖H v - value v‖, and whether that is small."""

    value: float
    vector: Vector
    residual: float
    converged: bool


@dataclass(frozen=True)
class LambdaMax:
    """The largest eigenvalue of the Hessian (the algebraically largest), by power iteration.

    Power iteration finds the eigenvalue of largest magnitude. If that is negative, as it can be
    away from a minimum, a second power iteration on H plus its magnitude finds the largest one.

    Args:
        iterations: Hessian-vector products at most, for each of the two.
        tolerance: it ends where ‖H v - value v‖ <= tolerance times the eigenvalue of largest
            magnitude. An eigenvalue is then so near to the value, or nearer; as a rule the error is
            about the square of the tolerance, divided by the gap to the next eigenvalue.
        hvp: how products are computed; see `yfkernels.curvature.gradient_and_product`.
    """

    name: ClassVar[str] = "lambda_max"

    iterations: int = 20
    tolerance: float = 0.01
    hvp: str = "auto"

    def __post_init__(self) -> None:
        check_whole("iterations", self.iterations, least=1)
        check_positive("tolerance", self.tolerance)
        check_hvp(self.hvp)

    def __call__(self, surface: Surface, progress: Progress | None = None) -> LargestCurvature:
        begin = surface.evaluations
        top = self.eigenpair(surface, progress)
        return LargestCurvature(
            value=top.value,
            residual=top.residual,
            converged=top.converged,
            **described(self, surface, begin),
        )

    def eigenpair(self, surface: Surface, progress: Progress | None = None) -> Eigenpair:
        """The largest eigenvalue with its vector."""
        draws = Draws(surface.params, surface.seed)
        found = self._iterate(surface, draws.normal(), 0.0, progress)
        if found.value < 0.0:
            found = self._iterate(surface, draws.normal(), -found.value, progress)
        return found

    def _iterate(
        self, surface: Surface, vector: Vector, shift: float, progress: Progress | None
    ) -> Eigenpair:
        """v <- (H + shift) v / ‖(H + shift) v‖"""
        image, pair = vector, Eigenpair(0.0, vector, math.inf, False)
        for _ in steps(self.iterations, progress):
            size = norm(image)
            vector = [part.div_(size) for part in image]
            del image, pair
            image = surface.product(vector)
            value = dot(vector, image)
            residual = norm([y.sub(x, alpha=value) for x, y in zip(vector, image)])
            converged = residual <= self.tolerance * max(abs(value), shift)
            pair = Eigenpair(value, vector, residual, converged)
            if converged:
                break
            torch._foreach_add_(image, vector, alpha=shift)
        return pair


@dataclass(frozen=True)
class Trace:
    """The trace of the Hessian, as the mean of <z, H z> for random signs z (Hutchinson).

    Args:
        samples: Hessian-vector products at most, at least 2.
        tolerance: after ten samples it ends where the standard error is at most this share of the
            value.
        hvp: how products are computed; see `yfkernels.curvature.gradient_and_product`.

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix" (1990).
    """

    name: ClassVar[str] = "trace"

    samples: int = 20
    tolerance: float = 0.01
    hvp: str = "auto"

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, least=2)
        check_positive("tolerance", self.tolerance)
        check_hvp(self.hvp)

    def __call__(self, surface: Surface, progress: Progress | None = None) -> MeanSharpness:
        begin, draws = surface.evaluations, Draws(surface.params, surface.seed)
        found: list[float] = []
        error = math.inf
        for _ in steps(self.samples, progress):
            z = draws.signs()
            found.append(dot(z, surface.product(z)))
            error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.inf
            if len(found) >= _FEWEST and error <= self.tolerance * abs(fmean(found)):
                break
        return MeanSharpness(
            value=fmean(found),
            standard_error=error,
            samples=len(found),
            **described(self, surface, begin),
        )
