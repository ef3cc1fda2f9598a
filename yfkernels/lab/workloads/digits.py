"""Handwritten digits: 1797 gray images of 8 x 8 pixels that come with scikit-learn, ten classes.

No augmentation. A quarter of the images is the test set; the split is always the same, so that
results under different seeds are comparable.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.lab.workloads.examples import TEST_FRACTION, ExamplesTask
from yfkernels.lab.workloads.layers import conv_block, mlp
from yfkernels.lab.workloads.training import Batch

CLASSES = 10
SPLIT_SEED = 0


@cache
def all_digits() -> Batch:
    """Images, float32, (1797, 1, 8, 8), values 0 to 1, and their labels, int64."""
    from sklearn.datasets import load_digits  # here: it takes a second to load

    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16.0, dtype=torch.float32)  # pixels count 0..16
    return images, torch.tensor(digits.target)


def digits_conv() -> ExamplesTask:
    """Three 3 x 3 convolutions with BatchNorm, 24k parameters in 11 tensors."""
    return _classification("Handwritten digits, small conv net with BatchNorm", _conv_net)


def digits_mlp() -> ExamplesTask:
    """Two hidden layers of 64 units without normalization, 9k parameters in 6 tensors."""
    build_model = partial(mlp, 64, 64, CLASSES)
    return _classification("Handwritten digits, two hidden layers of 64", build_model)


def _classification(title: str, build_model: Callable[[], nn.Module]) -> ExamplesTask:
    training, test = split_balanced(*all_digits())
    return ExamplesTask(title, build_model, F.cross_entropy, training, test, split=split_balanced)


def split_balanced(
    images: Tensor, labels: Tensor, *, share: float = TEST_FRACTION
) -> tuple[Batch, Batch]:
    """Splits off a share of the images, with the classes in balance, as the test set."""
    from sklearn.model_selection import train_test_split

    training, test = train_test_split(
        torch.arange(len(labels)),
        test_size=share,
        stratify=labels,
        random_state=SPLIT_SEED,
    )
    return (images[training], labels[training]), (images[test], labels[test])


def _conv_net() -> nn.Module:
    return nn.Sequential(
        *conv_block(1, 16),
        *conv_block(16, 32),
        nn.MaxPool2d(2),
        *conv_block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )
