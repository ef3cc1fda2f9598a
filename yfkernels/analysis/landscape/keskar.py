"""Keskar's sharpness: the highest loss in a small box, found by L-BFGS-B."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from yfkernels._checks import check_positive, check_whole
from yfkernels.analysis.landscape.adaptive import Adaptive
from yfkernels.analysis.landscape.progress import Progress, steps
from yfkernels.analysis.landscape.results import KeskarSharpness, described
from yfkernels.analysis.landscape.spaces import Array, FullSpace, RandomSubspace, Space
from yfkernels.analysis.landscape.surface import Surface

_FLAT = 0.01  # of the largest first slope; from smaller ones a step may end inside the box
_SEARCH = 5  # evaluations of a line search at most


@dataclass(frozen=True)
class Keskar:
    """100 (max f(x + A z) - f(x)) / (1 + f(x)) over |z_i| <= eps (|(A⁺ x)_i| + 1).

    The maximization is scipy's L-BFGS-B, from 0 and from random points of the box, because the
    gradient is about 0 at a minimum; the best result counts. Its variables are shares of the box,
    and the loss is divided by 1% of its first slope there, so that the first step goes to the
    boundary in all variables that matter. In the study's own units it found a third of the rise
    where the gradient was small (docs/results/sharpness.md).

    In the full space L-BFGS-B keeps up to about 25 float64 vectors of the model's size in the
    memory of the host, besides the three that the other measures need. In a subspace it does not.

    Args:
        eps: size of the box; 1e-3 and 5e-4 in the study.
        subspace: columns of A, which are drawn from N(0, 1); 100 in the study. None: A = I.
        iterations: of L-BFGS-B for each start; 10 in the study.
        starts: 0, and so many less one random points.

    Raises:
        ModuleNotFoundError: SciPy is not installed.

    Source: Keskar et al., arXiv 1609.04836, metric 2.1.
    """

    name: ClassVar[str] = "keskar"

    eps: float = 1e-3
    subspace: int | None = None
    iterations: int = 10
    starts: int = 3

    def __post_init__(self) -> None:
        check_positive("eps", self.eps)
        if self.subspace is not None:
            check_whole("subspace", self.subspace, least=1)
        check_whole("iterations", self.iterations, least=1)
        check_whole("starts", self.starts, least=1)
        _scipy_optimize()

    def __call__(self, surface: Surface, progress: Progress | None = None) -> KeskarSharpness:
        begin, best = surface.evaluations, surface.loss
        if best <= -1.0:
            raise ValueError(
                f"Invalid loss: it is {best:g} at the model's own weights; Keskar's sharpness is "
                'relative to 1 + loss, so use a loss that is not negative, or method="adaptive"'
            )
        space = self._space(surface)
        half = self.eps * (abs(space.coordinates(surface.params)) + 1.0)
        starts = torch.Generator().manual_seed(surface.seed)
        for start in steps(self.starts, progress):
            u = torch.zeros(len(half), dtype=torch.float64)
            if start > 0:
                u.uniform_(-1.0, 1.0, generator=starts)
            best = max(best, self._ascend(surface, space, half, u.numpy()))
        value = 100.0 * (best - surface.loss) / (1.0 + surface.loss)
        beside = Adaptive(rho=self.eps, p=math.inf)(surface)
        return KeskarSharpness(
            value=value, max_loss=best, adaptive=beside, **described(self, surface, begin)
        )

    def _space(self, surface: Surface) -> Space:
        if self.subspace is None:
            return FullSpace(surface.params)
        return RandomSubspace(surface.params, self.subspace, surface.seed)

    def _ascend(self, surface: Surface, space: Space, half: Array, u: Array) -> float:
        """The highest loss that L-BFGS-B meets on its way from z = half * u."""
        met: list[float] = []
        unit = 0.0  # of the loss

        def below(u: Array) -> tuple[float, Array]:
            nonlocal unit
            with surface.displaced(space.displacement(half * u)):
                loss, grads = surface.gradient()
            met.append(loss)
            slopes = half * space.slopes(grads)
            unit = unit or _FLAT * float(abs(slopes).max()) or 1.0
            return -(loss - surface.loss) / unit, -slopes / unit

        optimize = _scipy_optimize()
        box = optimize.Bounds(-1.0, 1.0)
        options = {"maxiter": self.iterations, "maxls": _SEARCH, "ftol": 0.0, "gtol": 0.0}
        optimize.minimize(below, u, jac=True, method="L-BFGS-B", bounds=box, options=options)
        return max(met)


def _scipy_optimize() -> Any:
    try:
        from scipy import optimize
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'method="keskar" needs SciPy, which is not installed: '
            "pip install 'yfkernels[analysis]', or pip install scipy"
        ) from error
    return optimize
