"""Handwritten digits: 1797 grey images of 8 x 8 pixels that come with scikit-learn, ten classes.

No augmentation. A quarter of the images is the test set; the split is always the same, so that
results under different seeds are comparable.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TypedDict

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from yfkernels.workloads.training import Batch, Evaluation

CLASSES = 10
TEST_FRACTION = 0.25
SPLIT_SEED = 0


@dataclass(frozen=True)
class DigitsTask:
    """Classification of the digits with one of the models below.

    Attributes:
        title: what is trained, for people.
        build_model: makes an untrained model.
        train_images, test_images: float32, (n, 1, 8, 8), values 0 to 1.
        train_labels, test_labels: int64, (n,).
        batch_size: images a step; the rest of an epoch that fills no batch is dropped.

    Raises:
        ValueError: a batch is empty or larger than the training set.
    """

    title: str
    build_model: Callable[[], nn.Module]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.training_size:
            raise ValueError(
                f"Invalid batch_size value: {self.batch_size}; "
                f"it must be from 1 to {self.training_size}, the number of training images"
            )

    @property
    def training_size(self) -> int:
        """Number of training images."""
        return len(self.train_labels)

    @property
    def conditions(self) -> str:
        """Sizes of the data and of a batch, for people."""
        return (
            f"{self.training_size} training and {len(self.test_labels)} test images, "
            f"batch {self.batch_size}"
        )

    def with_batch_size(self, batch_size: int) -> DigitsTask:
        """The same task with batches of another size."""
        return replace(self, batch_size=batch_size)

    def held_out(self) -> DigitsTask:
        """The training images alone, a quarter of them held out as the test set: for tuning."""
        return replace(self, **_quarter_off(self.train_images, self.train_labels))

    def model(self, seed: int) -> nn.Module:
        """A freshly initialised model; torch's global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build_model()

    def batches(self, seed: int) -> Iterator[Batch]:
        """Shuffled batches, epoch after epoch."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.train_labels), generator=generator)
            for chosen in order.split(self.batch_size):
                if len(chosen) == self.batch_size:
                    yield self.train_images[chosen], self.train_labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross entropy in nats."""
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Test loss and accuracy in evaluation mode."""
        return _evaluate(model, self.test_images, self.test_labels)

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        """Loss and accuracy on the whole training set, in evaluation mode."""
        return _evaluate(model, self.train_images, self.train_labels)


def digits_conv() -> DigitsTask:
    """Three 3 x 3 convolutions with BatchNorm, 24k parameters in 11 tensors."""
    return DigitsTask("Handwritten digits, small conv net with BatchNorm", _conv_net, **_digits())


def digits_mlp() -> DigitsTask:
    """Two hidden layers of 64 units without normalisation, 9k parameters in 6 tensors."""
    return DigitsTask("Handwritten digits, two hidden layers of 64", _mlp, **_digits())


@torch.no_grad()
def _evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> Evaluation:
    was_training = model.training
    model.eval()
    logits = model(images)
    model.train(was_training)
    return Evaluation(
        loss=F.cross_entropy(logits, labels).item(),
        accuracy=(logits.argmax(1) == labels).double().mean().item(),
    )


def _conv_net() -> nn.Module:
    return nn.Sequential(
        *_conv_block(1, 16),
        *_conv_block(16, 32),
        nn.MaxPool2d(2),
        *_conv_block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


def _conv_block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


class _Split(TypedDict):
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@cache
def _digits() -> _Split:
    digits = load_digits()
    return _quarter_off(
        torch.tensor(digits.images[:, None] / 16.0, dtype=torch.float32),  # pixels count 0..16
        torch.tensor(digits.target),
    )


def _quarter_off(images: Tensor, labels: Tensor) -> _Split:
    """Splits off a quarter of the images, with the classes in balance, as the test set."""
    indices = torch.arange(len(labels))
    train, test = train_test_split(
        indices, test_size=TEST_FRACTION, stratify=labels, random_state=SPLIT_SEED
    )
    return {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }
