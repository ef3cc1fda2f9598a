"""Parts that several of the lab's networks for small images share."""

from __future__ import annotations

from torch import nn


def mlp(inputs: int, hidden: int, classes: int) -> nn.Module:
    """Two hidden layers without normalization."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def conv_block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """A 3 x 3 convolution with BatchNorm and ReLU."""
    return [*_normed_conv(inputs, outputs, stride), nn.ReLU()]


def residual_path(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Two 3 x 3 convolutions with BatchNorm; the ReLU after them is for the sum with the input."""
    return nn.Sequential(*conv_block(inputs, outputs, stride), *_normed_conv(outputs, outputs))


def _normed_conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]
