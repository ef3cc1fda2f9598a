"""Labeled images to tune on, with a test set and a way to split validation images off the others.

Sources: `yfkernels.lab.workloads.digits`, `.mnist` and `.cifar` name them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from yfkernels.lab.options import OptionError
from yfkernels.lab.tuning.networks import network
from yfkernels.lab.tuning.options import Options
from yfkernels.lab.tuning.vision import torchvision_part
from yfkernels.lab.workloads.cifar import CifarTask, cifar_images, split_validation, why_absent
from yfkernels.lab.workloads.digits import all_digits, split_balanced
from yfkernels.lab.workloads.examples import ExamplesTask, split_last
from yfkernels.lab.workloads.mnist import all_mnist_5k, standardized
from yfkernels.lab.workloads.training import Batch

FOLDER = Path("data")  # where none is named

Split = Callable[[Tensor, Tensor], tuple[Batch, Batch]]


@dataclass(frozen=True)
class Images:
    """A data set.

    Attributes:
        training: images, (n, channels, height, width), and their labels, int64.
        test: the same, for the test alone.
        classes: number of labels.
        split: parts training images into those to train on and those to validate on.
        task: how they are shown.
    """

    training: Batch
    test: Batch
    classes: int
    split: Split
    task: type[ExamplesTask] = ExamplesTask


def build_task(
    options: Options, *, data: Path | None = None, download: bool = False
) -> ExamplesTask:
    """The network on the data set; `held_out()` of it has validation images for a test set.

    Args:
        options: `network`, `dataset` and `batch_size` are read.
        data: folder with the files of mnist, cifar-10 or cifar-100; None: `FOLDER`.
        download: fetch them if they are not there.

    Raises:
        OptionError: an option does not fit, or the data is not there.
        ValueError: a batch is larger than the training set.
    """
    if options.dataset not in DATASETS:
        raise OptionError("dataset", options.dataset, f"choose from {', '.join(DATASETS)}")
    if options.dataset in PACKAGED:
        for option, value in (("data", data), ("download", download or None)):
            if value is not None:
                source = f"{options.dataset} is part of a Python package"
                raise OptionError(option, str(value), f"{source}; leave it out")
        images = PACKAGED[options.dataset]()
    else:
        images = IN_A_FOLDER[options.dataset](data or FOLDER, download)
    _, channels, height, width = images.training[0].shape
    build = network(
        options.network,
        (channels, height, width),
        images.classes,
        batch_size=options.batch_size,
    )
    return images.task(
        f"{options.network} on {options.dataset}",
        build,
        F.cross_entropy,
        images.training,
        images.test,
        batch_size=options.batch_size,
        split=images.split,
    )


def _digits() -> Images:
    return Images(*split_balanced(*all_digits()), classes=10, split=split_balanced)


def _mnist_5k() -> Images:
    """Of MNIST 500 images of each class, a fifth of them for the test; a fifth validates."""
    split_fifth = partial(split_balanced, share=0.2)
    return Images(*split_fifth(*all_mnist_5k()), classes=10, split=split_fifth)


def _mnist(folder: Path, download: bool) -> Images:
    parts = [_from_torchvision("MNIST", folder, download, train=train) for train in (True, False)]
    training, test = ((standardized(part.data), part.targets) for part in parts)
    return Images(training, test, classes=10, split=partial(split_last, count=10_000))


def _cifar(classes: int, folder: Path, download: bool) -> Images:
    if download:
        _from_torchvision(f"CIFAR{classes}", folder, download)
    reason = why_absent(folder, classes)
    if reason is not None:
        raise OptionError(
            "data", str(folder), f"{reason}; name the folder that holds it, or add --download"
        )
    return Images(*cifar_images(folder, classes), classes, split_validation, CifarTask)


def _from_torchvision(name: str, folder: Path, download: bool, **options: Any) -> Any:
    """One of torchvision's data sets."""
    datasets = torchvision_part(
        "datasets",
        option="dataset",
        value=name,
        use="it is read with",
        others=f"choose {' or '.join(PACKAGED)}",
    )
    try:
        return getattr(datasets, name)(str(folder), download=download, **options)
    except (OSError, RuntimeError) as error:
        raise OptionError(
            "data", str(folder), f"{error}; name the folder that holds {name}, or add --download"
        ) from error


PACKAGED: dict[str, Callable[[], Images]] = {"digits": _digits, "mnist-5k": _mnist_5k}
IN_A_FOLDER: dict[str, Callable[[Path, bool], Images]] = {
    "mnist": _mnist,
    "cifar-10": partial(_cifar, 10),
    "cifar-100": partial(_cifar, 100),
}
DATASETS = (*PACKAGED, *IN_A_FOLDER)
