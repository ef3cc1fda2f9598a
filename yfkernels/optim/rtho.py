"""RTHO: MARTHE that keeps all steps."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from yfkernels.optim.marthe import MARTHE


class RTHO(MARTHE):
    """Real-time hyperparameter optimization: MARTHE with mu = 1, whose Z keeps all steps.

    Args:
        base: as for MARTHE.
        options: of MARTHE, but for mu.

    Source: Franceschi, Donini, Frasconi, Pontil, "Forward and reverse gradient-based
    hyperparameter optimization", ICML 2017.
    """

    def __init__(self, base: Optimizer, **options: Any) -> None:
        if "mu" in options:
            raise TypeError("Invalid option 'mu': RTHO is MARTHE with mu = 1; leave it out")
        super().__init__(base, mu=1.0, **options)
