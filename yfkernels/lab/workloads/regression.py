"""Least squares with networks: a deep linear net, and an autoencoder of handwritten digits."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.lab.workloads.digits import all_digits
from yfkernels.lab.workloads.examples import ExamplesTask, split_quarter

LINEAR_WIDTH = 32
LINEAR_DEPTH = 5
CONDITION = 10.0  # of the linear map that is to be found
LINEAR_EXAMPLES = 2048
CODE = 8  # numbers the autoencoder may keep of an image's 64


def deep_linear() -> ExamplesTask:
    """Five linear layers on Gaussian inputs, targets from one linear map without noise.

    The loss can be zero and is not convex: only the product of the layers matters.
    """
    inputs, targets = _linear_map()
    training, test = split_quarter(inputs, targets)
    return ExamplesTask("Deep linear net", _linear_net, F.mse_loss, training, test)


def digits_autoencoder() -> ExamplesTask:
    """Digits squeezed through 8 numbers and back: 64-128-32-8-32-128-64, 26k parameters."""
    pixels = all_digits()[0].flatten(1)
    training, test = split_quarter(pixels, pixels)
    return ExamplesTask(
        "Autoencoder of handwritten digits", _autoencoder, F.mse_loss, training, test
    )


def _linear_net() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(LINEAR_WIDTH, LINEAR_WIDTH, bias=False) for _ in range(LINEAR_DEPTH))
    )


def _autoencoder() -> nn.Module:
    widths = (64, 128, 32, CODE)
    encoder = _layers(*widths)
    return nn.Sequential(*encoder, *_layers(*reversed(widths)))


def _layers(*widths: int) -> list[nn.Module]:
    """Linear layers with ReLU between them and none after the last."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs), nn.ReLU()]
    return modules[:-1]


@cache
def _linear_map() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, LINEAR_WIDTH, generator=generator, dtype=torch.float64)

    left, right = (torch.linalg.qr(normal(LINEAR_WIDTH)).Q for _ in range(2))
    stretch = torch.logspace(0, -1, LINEAR_WIDTH, base=CONDITION, dtype=torch.float64)
    inputs = normal(LINEAR_EXAMPLES)
    return inputs.float(), (inputs @ (left * stretch) @ right).float()
