"""CIFAR-10 and CIFAR-100 with ResNet-20, from the files of the data's authors.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; He et al.,
"Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2, for the network.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.workloads.training import Batch, Evaluation

PADDING = 4  # pixels round an image before it is cropped at random
EVALUATED = 1000  # images at once
HELD_OUT = 5000  # images

# classes: folder, training files, test file, key of the labels
FILES = {
    10: (
        "cifar-10-batches-py",
        [f"data_batch_{number}" for number in range(1, 6)],
        "test_batch",
        b"labels",
    ),
    100: ("cifar-100-python", ["train"], "test", b"fine_labels"),
}


def why_absent(data: Path | None, classes: int) -> str | None:
    """Why the task cannot be built from this folder, or None if it can."""
    if data is None:
        return "no folder with the data was named"
    folder, training, test, _ = FILES[classes]
    missing = [name for name in (*training, test) if not (data / folder / name).is_file()]
    return f"{data / folder} lacks {', '.join(missing)}" if missing else None


def cifar_resnet(data: Path, classes: int) -> CifarTask:
    """ResNet-20, 0.27M parameters.

    Args:
        data: holds the folder unpacked from the authors' archive. Its files are pickles, so only
            take them from a source you trust.
        classes: 10 or 100.

    Raises:
        FileNotFoundError: a file of the data is missing.
    """
    reason = why_absent(data, classes)
    if reason is not None:
        raise FileNotFoundError(reason)
    folder, training, test, key = FILES[classes]
    return CifarTask(
        classes, _read(data / folder, training, key), _read(data / folder, [test], key)
    )


@dataclass(frozen=True)
class CifarTask:
    """Classification of 32 x 32 photographs, randomly shifted and mirrored.

    Attributes:
        classes: 10 or 100.
        training: images, uint8, (n, 3, 32, 32), and labels, int64, (n,).
        test: the same.
        batch_size: images a step.

    Raises:
        ValueError: a batch is empty or larger than the training set.
    """

    classes: int
    training: Batch
    test: Batch
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.training_size:
            raise ValueError(
                f"Invalid batch_size value: {self.batch_size}; "
                f"it must be from 1 to {self.training_size}, the number of training images"
            )

    @property
    def title(self) -> str:
        """What is trained, for people."""
        return f"CIFAR-{self.classes}, ResNet-20"

    @property
    def conditions(self) -> str:
        """Sizes of the data and of a batch, for people."""
        return (
            f"{self.training_size} training and {len(self.test[1])} test images, "
            f"batch {self.batch_size}"
        )

    @property
    def training_size(self) -> int:
        """Number of training images."""
        return len(self.training[1])

    def with_batch_size(self, batch_size: int) -> CifarTask:
        """The same task with batches of another size."""
        return replace(self, batch_size=batch_size)

    def held_out(self) -> CifarTask:
        """The training images alone, the last 5000 of them as the test set: for tuning."""
        images, labels = self.training
        return replace(
            self,
            training=(images[:-HELD_OUT], labels[:-HELD_OUT]),
            test=(images[-HELD_OUT:], labels[-HELD_OUT:]),
        )

    def model(self, seed: int) -> nn.Module:
        """A freshly initialised model; torch's global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _resnet20(self.classes)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Shuffled, shifted and mirrored batches, epoch after epoch."""
        images, labels = self.training
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(self.training_size, generator=generator)
            for chosen in order.split(self.batch_size):
                if len(chosen) == self.batch_size:
                    yield _varied(_floats(images[chosen]), generator), labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross entropy in nats."""
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Test loss and accuracy in evaluation mode."""
        return _evaluate(model, *self.test)

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        """The same on the training images as they are."""
        return _evaluate(model, *self.training)


class _Residual(nn.Module):
    """Two convolutions added to their input, which is thinned and padded where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = outputs - inputs
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        return F.relu(shortcut + self.path(images))


def _resnet20(classes: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    inputs = 16
    for outputs in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and outputs > inputs else 1
            layers.append(_Residual(inputs, outputs, stride))
            inputs = outputs
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return nn.Sequential(*layers, *head)


def _floats(images: Tensor) -> Tensor:
    """Values about -1 to 1."""
    return images.float() / 127.5 - 1.0


def _varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to PADDING pixels and, every other time, mirrored."""
    count, _, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)
    down, right = torch.randint(2 * PADDING + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    across = torch.arange(width).expand(count, -1)
    columns = right + torch.where(mirrored, width - 1 - across, across)
    rows = down + torch.arange(height)
    which = torch.arange(count)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def _evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> Evaluation:
    was_training = model.training
    model.eval()
    logits = torch.cat([model(_floats(some)) for some in images.split(EVALUATED)])
    model.train(was_training)
    return Evaluation(
        loss=F.cross_entropy(logits, labels).item(),
        accuracy=(logits.argmax(1) == labels).double().mean().item(),
    )


def _read(folder: Path, names: list[str], key: bytes) -> Batch:
    contents = []
    for name in names:
        with (folder / name).open("rb") as file:
            contents.append(pickle.load(file, encoding="bytes"))
    images = torch.cat([torch.as_tensor(content[b"data"]) for content in contents])
    labels = torch.cat([torch.as_tensor(content[key]) for content in contents])
    return images.reshape(-1, 3, 32, 32), labels.long()
