"""Adaptive sharpness: the highest loss where each weight changes by a share of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from yfkernels._checks import check_positive, check_whole, require
from yfkernels.analysis.landscape.progress import Progress, steps
from yfkernels.analysis.landscape.results import AdaptiveSharpness, described
from yfkernels.analysis.landscape.surface import Surface
from yfkernels.analysis.landscape.vectors import Draws, Vector, norm

_RHO = {2: 0.5, math.inf: 1e-3}


@dataclass(frozen=True)
class Adaptive:
    """max f(x + e) - f(x) over ‖e / |x|‖_p <= rho; weights that are 0 stay 0.

    In the coordinates u = e / |x| the layers' scales are gone, and the ascent takes place there:

        u <- (1 - gamma) u + gamma s,   s = the highest point of the ball for the present gradient,

    which needs no step size. With gamma = 1 it is the generalized power method, which never goes
    down where f is convex; gamma is halved whenever the loss has fallen.

    Args:
        rho: radius of the ball. None: 0.5 for p = 2, as ASAM trains on CIFAR-10, and 0.001 for
            p = inf, as Andriushchenko et al. evaluate: each weight changes by at most 0.1%.
        p: 2 or math.inf.
        iterations: gradients for each start.
        starts: random points of the ball, of which the best result counts. x itself is none of
            them: its gradient is about 0 at a minimum.

    Source: Kwon et al., "ASAM" (ICML 2021); Andriushchenko et al., arXiv 2302.07011. The ascent:
    Journée et al., "Generalized power method for sparse PCA" (JMLR 2010).
    """

    name: ClassVar[str] = "adaptive"

    rho: float | None = None
    p: float = math.inf
    iterations: int = 20
    starts: int = 1

    def __post_init__(self) -> None:
        require(self.p in (2, math.inf), "p", self.p, "2 or math.inf")
        if self.rho is None:
            object.__setattr__(self, "rho", _RHO[self.p])
        check_positive("rho", self.rho)
        check_whole("iterations", self.iterations, least=1)
        check_whole("starts", self.starts, least=1)

    def __call__(self, surface: Surface, progress: Progress | None = None) -> AdaptiveSharpness:
        begin, best = surface.evaluations, surface.loss
        draws = Draws(surface.params, surface.seed)
        for step in steps(self.starts * self.iterations, progress):
            if step % self.iterations == 0:
                move, gamma, last = self._start(draws, surface.origin), 1.0, -math.inf
            with surface.displaced(move):
                loss, grads = surface.gradient()
            best = max(best, loss)
            gamma, last = gamma / 2.0 if loss < last else gamma, loss
            torch._foreach_lerp_(move, self._highest(grads, surface.origin), gamma)
            del grads
            if (step + 1) % self.iterations == 0:
                with surface.displaced(move):
                    best = max(best, surface.value())
        return AdaptiveSharpness(
            value=best - surface.loss, max_loss=best, **described(self, surface, begin)
        )

    def _start(self, draws: Draws, origin: Sequence[Tensor]) -> Vector:
        assert self.rho is not None
        start = draws.normal() if self.p == 2 else draws.uniform()
        length = self.rho / norm(start) if self.p == 2 else self.rho
        return [part.mul_(x.abs()).mul_(length) for part, x in zip(start, origin)]

    def _highest(self, grads: Vector, origin: Sequence[Tensor]) -> Vector:
        """The e of the ball with the largest <grads, e>; in the memory of `grads`."""
        assert self.rho is not None
        for g, x in zip(grads, origin):
            g.mul_(x.abs())
            if self.p != 2:
                g.sign_()
        length = norm(grads) if self.p == 2 else 1.0
        for g, x in zip(grads, origin):
            g.mul_(x.abs()).mul_(self.rho / length if length else 0.0)
        return grads
