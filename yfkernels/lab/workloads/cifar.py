"""CIFAR-10 and CIFAR-100 with ResNet-20, from the files of the data's authors.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; He et al.,
"Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2, for the network.
"""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.lab.workloads.examples import ExamplesTask, split_last
from yfkernels.lab.workloads.layers import conv_block, residual_path
from yfkernels.lab.workloads.training import Batch

PADDING = 4  # pixels round an image before it is cropped at random
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
    """ResNet-20, 0.27M parameters; arguments and errors as of `cifar_images`."""
    training, test = cifar_images(data, classes)
    return CifarTask(
        f"CIFAR-{classes}, ResNet-20",
        partial(_resnet20, classes),
        F.cross_entropy,
        training,
        test,
        batch_size=128,
        split=split_validation,
    )


def cifar_images(data: Path, classes: int) -> tuple[Batch, Batch]:
    """Training and test images, uint8, (n, 3, 32, 32), and their labels, int64.

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
    return _read(data / folder, training, key), _read(data / folder, [test], key)


class CifarTask(ExamplesTask):
    """Classification of 32 x 32 photographs, shifted and mirrored at random in training.

    The images are kept as uint8, (n, 3, 32, 32).
    """

    def _shown(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return _varied(_floats(inputs), generator)

    def _plain(self, inputs: Tensor) -> Tensor:
        return _floats(inputs)


def split_validation(images: Tensor, labels: Tensor) -> tuple[Batch, Batch]:
    """Splits off the last 5000 images, to validate on."""
    return split_last(images, labels, count=HELD_OUT)


class _Residual(nn.Module):
    """Two convolutions added to their input, which is thinned and padded where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = outputs - inputs
        self.path = residual_path(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        return F.relu(shortcut + self.path(images))


def _resnet20(classes: int) -> nn.Module:
    layers = conv_block(3, 16)
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


def _read(folder: Path, names: list[str], key: bytes) -> Batch:
    contents = []
    for name in names:
        with (folder / name).open("rb") as file:
            contents.append(pickle.load(file, encoding="bytes"))
    images = torch.cat([torch.as_tensor(content[b"data"]) for content in contents])
    labels = torch.cat([torch.as_tensor(content[key]) for content in contents])
    return images.reshape(-1, 3, 32, 32), labels.long()
