"""Average-case sharpness: how much higher the loss is at random weights nearby."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import ClassVar

from yfkernels._checks import check_positive, check_whole, require
from yfkernels.analysis.landscape.progress import Progress, steps
from yfkernels.analysis.landscape.results import MeanSharpness, described
from yfkernels.analysis.landscape.surface import Surface
from yfkernels.analysis.landscape.vectors import Draws


@dataclass(frozen=True)
class Random:
    """E f(x + e) - f(x) for Gaussian e: sigma N(0, 1), or sigma |x| N(0, 1) if adaptive.

    Each sample is the mean of e and -e, which removes the noise that the gradient makes. For small
    sigma the value is ½ sigma² tr(H), or ½ sigma² Σ H_ii x_i².

    Args:
        sigma: standard deviation of e_i, or of e_i / |x_i|. 0.01 is ours: 1% of a weight.
        adaptive: whether e_i is a share of |x_i|. The value does then not depend on how the layers
            are scaled.
        samples: pairs of e and -e, at least 2.

    Source: Andriushchenko et al., arXiv 2302.07011, section 3.
    """

    name: ClassVar[str] = "random"

    sigma: float = 0.01
    adaptive: bool = False
    samples: int = 20

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)
        require(isinstance(self.adaptive, bool), "adaptive", self.adaptive, "True or False")
        check_whole("samples", self.samples, least=2)

    def __call__(self, surface: Surface, progress: Progress | None = None) -> MeanSharpness:
        begin, loss = surface.evaluations, surface.loss
        draws = Draws(surface.params, surface.seed)
        rises = []
        for _ in steps(self.samples, progress):
            e = draws.normal()
            if self.adaptive:
                for part, x in zip(e, surface.origin):
                    part.mul_(x.abs())
            ends = []
            for scale in (self.sigma, -self.sigma):
                with surface.displaced(e, scale):
                    ends.append(surface.value())
            rises.append(fmean(ends) - loss)
            del e
        return MeanSharpness(
            value=fmean(rises),
            standard_error=stdev(rises) / math.sqrt(self.samples),
            samples=self.samples,
            **described(self, surface, begin),
        )
