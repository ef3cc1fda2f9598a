"""Handwritten digits: 1797 grey images of 8 x 8 pixels that come with scikit-learn, ten classes.

No augmentation. A quarter of the images is the test set; the split is always the same, so that
results under different seeds are comparable.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

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
        build_model: makes an untrained model.
        train_images, test_images: float32, (n, 1, 8, 8), values 0 to 1.
        train_labels, test_labels: int64, (n,).
        batch_size: images a step; the rest of an epoch that fills no batch is dropped.
    """

    build_model: Callable[[], nn.Module]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    batch_size: int = 64

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

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Evaluation:
        """Test loss and accuracy in evaluation mode."""
        was_training = model.training
        model.eval()
        logits = model(self.test_images)
        model.train(was_training)
        return Evaluation(
            loss=F.cross_entropy(logits, self.test_labels).item(),
            accuracy=(logits.argmax(1) == self.test_labels).double().mean().item(),
        )


def digits_conv() -> DigitsTask:
    """Three 3 x 3 convolutions with BatchNorm, 24k parameters in 11 tensors."""
    return DigitsTask(_conv_net, *_split())


def digits_mlp() -> DigitsTask:
    """Two hidden layers of 64 units without normalisation, 9k parameters in 6 tensors."""
    return DigitsTask(_mlp, *_split())


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


@cache
def _split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, then test images and labels."""
    digits = load_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        digits.images[:, None] / 16.0,  # pixels are counts 0..16
        digits.target,
        test_size=TEST_FRACTION,
        stratify=digits.target,
        random_state=SPLIT_SEED,
    )
    return (
        torch.tensor(train_images, dtype=torch.float32),
        torch.tensor(train_labels),
        torch.tensor(test_images, dtype=torch.float32),
        torch.tensor(test_labels),
    )
