"""Convex tasks with noise: logistic regression on real data, and a badly conditioned quadratic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.lab.workloads.digits import all_digits
from yfkernels.lab.workloads.examples import ExamplesTask, split_quarter
from yfkernels.lab.workloads.training import Batch, Evaluation

FLIPPED = 0.1  # share of wrong training labels
DIMENSIONS = 100
CONDITION = 1e3
START = 3.0  # standard deviation of each coordinate of the first point
GRADIENT_NOISE = 0.1  # the same of the noise in each coordinate of a gradient


def noisy_logistic() -> ExamplesTask:
    """Odd digit or even? Logistic regression on 64 pixels, a tenth of the training labels wrong.

    The minimum of the training loss is .415.
    """
    images, digits = all_digits()
    (pixels, odd), test = split_quarter(images.flatten(1), digits % 2)
    wrong = torch.rand(len(odd), generator=torch.Generator().manual_seed(0)) < FLIPPED
    training = pixels, torch.where(wrong, 1 - odd, odd)
    return ExamplesTask(
        "Logistic regression, a tenth of the labels wrong",
        lambda: nn.Linear(pixels.shape[1], 2),
        F.cross_entropy,
        training,
        test,
        batch_size=8,
    )


@dataclass(frozen=True)
class QuadraticTask:
    """Half of xᵀHx with a rotated H, seen through noisy gradients.

    The loss that is reported is without the noise. There is nothing to generalize to: the test loss
    is the loss, the accuracy NaN.

    Attributes:
        hessian: (n, n), symmetric and positive.
        batch_size: noise vectors averaged in a gradient.
    """

    hessian: Tensor
    batch_size: int = 1

    @property
    def title(self) -> str:
        """What is trained, for people."""
        return f"Rotated quadratic of condition {CONDITION:g}, noisy gradients"

    @property
    def conditions(self) -> str:
        """Size and noise, for people."""
        return (
            f"{len(self.hessian)} dimensions, gradient noise {GRADIENT_NOISE:g} a coordinate, "
            f"batch {self.batch_size}"
        )

    @property
    def training_size(self) -> int:
        """One function."""
        return 1

    def with_batch_size(self, batch_size: int) -> QuadraticTask:
        """The same with the noise of so many gradients averaged."""
        return replace(self, batch_size=batch_size)

    def held_out(self) -> QuadraticTask:
        """The same: there are no examples."""
        return self

    def model(self, seed: int) -> nn.Module:
        """A Gaussian first point."""
        start = torch.randn(len(self.hessian), generator=torch.Generator().manual_seed(seed))
        return _Point(START * start)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Noise for the gradients; the second tensor is empty."""
        generator = torch.Generator().manual_seed(seed)
        scale = GRADIENT_NOISE / math.sqrt(self.batch_size)
        while True:
            yield scale * torch.randn(len(self.hessian), generator=generator), torch.empty(0)

    def test_batches(self, seed: int) -> Iterator[Batch]:
        """The same."""
        return self.batches(seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The value without noise, whose gradient has the noise."""
        point: Tensor = model()
        tilt = batch[0] @ point
        return self._value(point) + (tilt - tilt.detach())

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Evaluation:
        """The value without noise."""
        return Evaluation(loss=self._value(model()).item(), accuracy=math.nan)

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        """The same."""
        return self.evaluate(model)

    def _value(self, point: Tensor) -> Tensor:
        return 0.5 * (point @ (self.hessian @ point))


class _Point(nn.Module):
    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.point = nn.Parameter(start)

    def forward(self) -> Tensor:
        return self.point


@cache
def quadratic() -> QuadraticTask:
    """100 dimensions, eigenvalues from 1e-3 to 1 in even ratios, eigenvectors at random."""
    generator = torch.Generator().manual_seed(0)
    shape = (DIMENSIONS, DIMENSIONS)
    axes = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64)).Q
    eigenvalues = torch.logspace(-math.log10(CONDITION), 0, DIMENSIONS, dtype=torch.float64)
    return QuadraticTask(((axes * eigenvalues) @ axes.T).float())
