"""The networks: what they take, what they refuse, and those of torchvision by a stand-in."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from yfkernels.lab.options import OptionError
from yfkernels.lab.tuning.networks import OWN, network

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
SHAPES = {"digits": DIGITS, "mnist": MNIST, "cifar": CIFAR}


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", OWN)
def test_networks_take_every_data_set(name: str, shape: tuple[int, int, int]) -> None:
    if (name, shape) == ("lenet-5", DIGITS):
        pytest.skip("too small for it, see below")
    model = network(name, shape, classes=7)()
    images = torch.randn(3, *shape)
    outputs = model(images)
    assert outputs.shape == (3, 7)
    outputs.logsumexp(1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_lenet5_says_that_digits_are_too_small() -> None:
    with pytest.raises(OptionError, match=r"'lenet-5'; it cannot take images of 8 x 8 pixels") as e:
        network("lenet-5", DIGITS, 10)
    assert "12 x 12 are the smallest" in str(e.value)
    assert "choose a smaller network, larger images or more of them" in str(e.value)
    assert e.value.option == "network"
    network("lenet-5", (1, 12, 12), 10)


def test_one_image_a_step_may_be_too_few_for_batchnorm() -> None:
    with pytest.raises(OptionError, match=r"8 x 8 pixels, 1 a step \(Expected more than 1"):
        network("resnet-18", DIGITS, 10, batch_size=1)
    network("resnet-18", CIFAR, 10, batch_size=1)
    network("mlp", DIGITS, 10, batch_size=1)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("lenet-5", MNIST, 61_706),  # LeCun et al.: 5x5x1x6 + ..., with full connections
        ("mlp", DIGITS, 65 * 256 + 257 * 256 + 257 * 10),
        ("vgg-11", CIFAR, 9_228_362),
        ("resnet-18", CIFAR, 11_173_962),
    ],
)
def test_sizes_are_those_of_the_literature(
    name: str, shape: tuple[int, int, int], parameters: int
) -> None:
    assert size(network(name, shape, 10)()) == parameters


def test_vgg_has_dropout_and_all_but_mlp_and_lenet_have_batchnorm() -> None:
    kinds = {
        name: {type(module) for module in network(name, CIFAR, 10)().modules()} for name in OWN
    }
    assert [name for name in OWN if nn.Dropout in kinds[name]] == ["vgg-11"]
    assert [name for name in OWN if nn.BatchNorm2d in kinds[name]] == ["vgg-11", "resnet-18"]


def test_finding_a_network_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    network("vgg-11", DIGITS, 10)
    assert torch.equal(torch.get_rng_state(), before)


# ---- torchvision


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in with one classifier, one that answers otherwise and one detector; its calls."""
    calls: list[dict[str, Any]] = []
    models = ModuleType("torchvision.models")

    class Inception(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 1)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images

    def get_model(name: str, weights: Any, num_classes: int) -> nn.Module:
        calls.append({"name": name, "weights": weights, "num_classes": num_classes})
        if name == "inception_v3":
            return Inception()
        return nn.Sequential(
            nn.Conv2d(3, 2, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes)
        )

    def list_models(module: ModuleType) -> list[str]:
        assert module is models  # else detectors are among them
        return ["wide_resnet50_2", "inception_v3"]

    models.get_model, models.list_models = get_model, list_models  # type: ignore[attr-defined]
    package = ModuleType("torchvision")
    package.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return calls


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_other_names_are_those_of_torchvision(
    torchvision: list[dict[str, Any]], shape: tuple[int, int, int]
) -> None:
    """Also on gray images; without weights."""
    model = network("wide_resnet50_2", shape, classes=5)()
    assert model(torch.randn(2, *shape)).shape == (2, 5)
    assert torchvision[-1] == {"name": "wide_resnet50_2", "weights": None, "num_classes": 5}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("fasterrcnn", "torchvision has no such classifier; choose from mlp, lenet-5, vgg-11"),
        ("inception_v3", "it is no plain classifier; choose one that is"),
    ],
)
def test_what_is_no_classifier_is_refused(
    torchvision: list[dict[str, Any]], name: str, complaint: str
) -> None:
    with pytest.raises(OptionError, match=f"Invalid network value: {name!r}; {complaint}"):
        network(name, CIFAR, 10)


def test_images_too_small_for_a_model_of_torchvision(torchvision: list[dict[str, Any]]) -> None:
    with pytest.raises(OptionError, match="cannot take images of 4 x 4 pixels"):
        network("wide_resnet50_2", (3, 4, 4), 10)


def test_without_torchvision_the_error_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        OptionError, match="install the torchvision that belongs to your torch"
    ) as e:
        network("densenet121", CIFAR, 10)
    assert "or choose from mlp, lenet-5, vgg-11, resnet-18" in str(e.value)
