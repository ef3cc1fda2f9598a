"""What is trained, and for how many steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from yfkernels.lab.workloads.cifar import cifar_resnet, why_absent
from yfkernels.lab.workloads.convex import noisy_logistic, quadratic
from yfkernels.lab.workloads.digits import digits_conv, digits_mlp
from yfkernels.lab.workloads.regression import deep_linear, digits_autoencoder
from yfkernels.lab.workloads.text import text_lstm, text_transformer
from yfkernels.lab.workloads.training import Task


@dataclass(frozen=True)
class TaskSpec:
    """A row of the benchmark.

    Attributes:
        build: makes the task.
        steps: of every training.
        smoothing: steps in the running mean of the loss: about an epoch where batches are so small
            that their losses say little.
        has_classes: the test metric is the accuracy, else the test loss.
    """

    build: Callable[[], Task]
    steps: int
    smoothing: int = 25
    has_classes: bool = True


def _full_batch() -> Task:
    task = digits_mlp()
    return task.with_batch_size(task.training_size)


# Steps so that a training ends within half a minute on one core.
TASKS: dict[str, TaskSpec] = {
    "digits-mlp": TaskSpec(digits_mlp, 4000),
    "digits-conv": TaskSpec(digits_conv, 1500),
    "digits-full-batch": TaskSpec(_full_batch, 1500),
    "digits-batch-4": TaskSpec(lambda: digits_mlp().with_batch_size(4), 4000, smoothing=336),
    "digits-autoencoder": TaskSpec(digits_autoencoder, 4000, has_classes=False),
    "deep-linear": TaskSpec(deep_linear, 4000, has_classes=False),
    "logistic": TaskSpec(noisy_logistic, 4000, smoothing=168),
    "quadratic": TaskSpec(quadratic, 4000, has_classes=False),
    "text-lstm": TaskSpec(text_lstm, 1500, has_classes=False),
    "text-transformer": TaskSpec(text_transformer, 1200, has_classes=False),
}
CIFAR_STEPS = 20_000
CIFAR = {"cifar-10": 10, "cifar-100": 100}


def add_cifar(data: Path | None) -> dict[str, str]:
    """Adds the CIFAR tasks whose data lies in a folder to `TASKS`.

    Args:
        data: holds ``cifar-10-batches-py`` or ``cifar-100-python``, as unpacked from the archives
            of the data's authors.

    Returns:
        Of the others, why they are absent.
    """
    absent = {}
    for name, classes in CIFAR.items():
        reason = why_absent(data, classes)
        if data is None or reason is not None:
            absent[name] = reason or "no folder is given with --data"
        else:
            TASKS[name] = TaskSpec(partial(cifar_resnet, data, classes), CIFAR_STEPS)
    return absent


def data_of(spec: TaskSpec) -> str:
    """Which data it is where that depends on the machine, else nothing."""
    fingerprint: str = getattr(spec.build(), "fingerprint", "")
    return fingerprint
