"""The parameter lists that are raced: grids of equal tensors and three real models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]

_SUFFIX = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Size:
    """A named list of parameter shapes."""

    name: str
    shapes: tuple[Shape, ...]

    @property
    def numel(self) -> int:
        """Number of parameters in all tensors together."""
        return sum(prod(shape) for shape in self.shapes)

    @property
    def tensors(self) -> int:
        """Number of tensors."""
        return len(self.shapes)

    @property
    def description(self) -> str:
        """The size in words."""
        if self.name in _MODELS:
            return f"{self.name}, {self.tensors} tensors, {self.numel / 1e6:.1f}M parameters"
        elements = self.name.partition("x")[2]
        return f"{self.tensors} tensor{'s' * (self.tensors > 1)} of {elements}"


def resnet50_shapes() -> Iterator[Shape]:
    """ResNet-50 for ImageNet: 161 tensors, 25.6M parameters."""

    def convolution_with_norm(inputs: int, outputs: int, kernel: int) -> Iterator[Shape]:
        yield (outputs, inputs, kernel, kernel)
        yield from ((outputs,), (outputs,))

    yield from convolution_with_norm(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        outputs = 4 * width
        for block in range(blocks):
            yield from convolution_with_norm(inputs, width, 1)
            yield from convolution_with_norm(width, width, 3)
            yield from convolution_with_norm(width, outputs, 1)
            if block == 0:
                yield from convolution_with_norm(inputs, outputs, 1)
            inputs = outputs
    yield from ((1000, inputs), (1000,))


def gpt2_shapes() -> Iterator[Shape]:
    """GPT-2 small with tied embeddings: 148 tensors, 124.4M parameters."""
    width = 768
    yield from ((50257, width), (1024, width))
    for _ in range(12):
        yield from ((width,), (width,))
        yield from ((width, 3 * width), (3 * width,), (width, width), (width,))
        yield from ((width,), (width,))
        yield from ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    yield from ((width,), (width,))


def bert_large_shapes() -> Iterator[Shape]:
    """BERT-large with its pre-training heads: 398 tensors, 336.2M parameters."""
    width, vocabulary = 1024, 30522
    norm: tuple[Shape, ...] = ((width,), (width,))
    square: tuple[Shape, ...] = ((width, width), (width,))

    yield from ((vocabulary, width), (512, width), (2, width), *norm)
    for _ in range(24):
        yield from (*square, *square, *square, *square, *norm)
        yield from ((4 * width, width), (4 * width,), (width, 4 * width), (width,), *norm)
    yield from square  # pooler
    yield from ((vocabulary,), *square, *norm, (2, width), (2,))


_MODELS = {"resnet50": resnet50_shapes, "gpt2": gpt2_shapes, "bert-large": bert_large_shapes}


def parse_size(name: str) -> Size:
    """Turn `resnet50`, `gpt2`, `bert-large` or `TENSORSxELEMENTS` (`400x64`, `1x50M`) into shapes.

    Raises:
        ValueError: if the name is none of these.
    """
    if name in _MODELS:
        return Size(name, tuple(_MODELS[name]()))
    grid = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)([KMG]?)", name)
    if grid is None:
        raise ValueError(
            f"Invalid size: {name!r} (use one of {', '.join(_MODELS)}, or TENSORSxELEMENTS "
            "such as 400x64 or 1x50M)"
        )
    tensors, elements, suffix = grid.groups()
    return Size(name, ((int(elements) * _SUFFIX[suffix],),) * int(tensors))


DEFAULT_SIZES = {
    "cpu": ("1x50M", "50x1M", "resnet50", "gpt2", "1000x1024", "10000x64", "400x64"),
    # what the targets need first, for time may run out
    "cuda": ("1x1G", "resnet50", "400x64", "bert-large", "gpt2", "1x50M", "1000x1024", "10000x64"),
}
QUICK_SIZES = ("resnet50", "1000x1024", "400x64")
