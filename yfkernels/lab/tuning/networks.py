"""Networks for small images: LeNet-5, an MLP, VGG-11, ResNet-18, and those of torchvision.

Sources: LeCun et al., "Gradient-based learning applied to document recognition", 1998; Simonyan and
Zisserman, arXiv 1409.1556; He et al., arXiv 1512.03385. Of LeNet-5 the layers, with today's ReLU
and max pooling; of the others the forms for CIFAR, with BatchNorm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.lab.options import OptionError
from yfkernels.lab.tuning.vision import torchvision_part
from yfkernels.lab.workloads.layers import conv_block, mlp, residual_path

Shape = tuple[int, int, int]  # channels, height, width
Build = Callable[[], nn.Module]


def network(name: str, shape: Shape, classes: int, *, batch_size: int = 2) -> Build:
    """How to build a network for images of that shape; tried once.

    Args:
        name: of `OWN`, else of a model of torchvision, which is built without weights.
        shape: channels, height and width of an image.
        classes: outputs.
        batch_size: images a step; BatchNorm needs two where they have shrunk to one pixel.

    Raises:
        OptionError: no such network; images too small for it, or too few; torchvision is needed.
    """
    own = OWN.get(name)
    build = partial(own, shape, classes) if own else _torchvision(name, shape, classes)
    images = torch.zeros(min(batch_size, 2), *shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            outputs = build()(images)
        except (RuntimeError, ValueError) as error:
            _, height, width = shape
            raise OptionError(
                "network",
                name,
                f"it cannot take images of {height} x {width} pixels, {batch_size} a step "
                f"({error}); choose a smaller network, larger images or more of them",
            ) from error
    if getattr(outputs, "shape", None) != (len(images), classes):
        raise OptionError("network", name, "it is no plain classifier; choose one that is")
    return build


def _lenet5(shape: Shape, classes: int) -> nn.Module:
    """61,706 parameters for 28 x 28 pixels."""
    channels, height, width = shape
    if min(height, width) < 12:
        raise ValueError("12 x 12 are the smallest")
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def _mlp(shape: Shape, classes: int) -> nn.Module:
    """Two hidden layers of 256 units."""
    return mlp(math.prod(shape), 256, classes)


def _vgg11(shape: Shape, classes: int) -> nn.Module:
    """Eight convolutions, five poolings, dropout before one linear layer; 9.2M parameters."""
    layers: list[nn.Module] = []
    inputs = shape[0]
    for widths in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for outputs in widths:
            layers += conv_block(inputs, outputs)
            inputs = outputs
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # a side of 7 becomes 4
    head = (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(inputs, classes))
    return nn.Sequential(*layers, *head)


class _Residual(nn.Module):
    """Two convolutions added to their input, which is projected where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = residual_path(inputs, outputs, stride)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.path(images) + self.shortcut(images))


def _resnet18(shape: Shape, classes: int) -> nn.Module:
    """Without the first pooling, as for CIFAR; 11.2M parameters."""
    layers = conv_block(shape[0], 64)
    inputs = 64
    for outputs in (64, 128, 256, 512):
        layers.append(_Residual(inputs, outputs, stride=1 if outputs == inputs else 2))
        layers.append(_Residual(outputs, outputs, stride=1))
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


OWN: dict[str, Callable[[Shape, int], nn.Module]] = {
    "mlp": _mlp,
    "lenet-5": _lenet5,
    "vgg-11": _vgg11,
    "resnet-18": _resnet18,
}


class _ThreeChannels(nn.Module):
    """Shows gray images as colored ones."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


def _torchvision(name: str, shape: Shape, classes: int) -> Build:
    others = f"choose from {', '.join(OWN)}"
    models = torchvision_part(
        "models", option="network", value=name, use="other names are looked up in", others=others
    )
    if name not in models.list_models(module=models):
        raise OptionError("network", name, f"torchvision has no such classifier; {others}")

    def build() -> nn.Module:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        return nn.Sequential(_ThreeChannels(), model) if shape[0] == 1 else model

    return build
