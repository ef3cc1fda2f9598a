"""What a tuning run is told, and the ranges of its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from yfkernels.lab.options import OptionError

# option: whether a finite number is in its range, and how the range is told
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda x: x > 0.0, "finite and > 0"),
    "hyper_lr": (lambda x: x >= 0.0, "finite and >= 0"),
    "alpha": (lambda x: x >= 0.0, "finite and >= 0"),
    "mu": (lambda x: x <= 1.0, "finite and <= 1; below 0 it adapts"),
    "momentum": (lambda x: 0.0 <= x < 1.0, "in [0, 1)"),
    "wd": (lambda x: x >= 0.0, "finite and >= 0"),
    "grad_clipping": (lambda x: x > 0.0, "finite and > 0; leave it out for no clip"),
}


def check_ranges(given: Mapping[str, float | None]) -> None:
    """Raises OptionError for a number that is not in the range of its option; None is no number."""
    for option, value in given.items():
        is_in_range, told = RANGES[option]
        if value is not None and not (math.isfinite(value) and is_in_range(value)):
            raise OptionError(option, value, f"it must be {told}")


@dataclass(frozen=True)
class Options:
    """All that the course of a run depends on; None: not given.

    Attributes:
        network: of `networks.OWN`, or the name of a model of torchvision.
        dataset: of `datasets.DATASETS`.
        optimizer: of `bases.BASES`.
        method: of `methods.METHODS`.
        lr: the first learning rate; None: the one that suits the optimizer.
        hyper_lr: step size of lr; None: of the normalized form.
        alpha: step size of hyper_lr; None: hyper_lr is fixed.
        mu: how much of its history MARTHE keeps in a step; None or below 0: it adapts.
        momentum: of SGD, beta of QHM; None: the one that suits the optimizer.
        wd: weight decay; None: the optimizer's own.
        batch_size: examples a step.
        num_epoch: passes over the training examples.
        grad_clipping: bound on the norm of a gradient; None: no clip.
        seed: of weights, order and dropout.
        threads: CPU threads for torch, on which the rounding of sums depends.
    """

    network: str = "mlp"
    dataset: str = "digits"
    optimizer: str = "sgd"
    method: str = "marthe"
    lr: float | None = None
    hyper_lr: float | None = None
    alpha: float | None = None
    mu: float | None = None
    momentum: float | None = None
    wd: float | None = None
    batch_size: int = 64
    num_epoch: int = 50
    grad_clipping: float | None = None
    seed: int = 0
    threads: int = 1
