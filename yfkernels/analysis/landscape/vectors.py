"""Vectors that have a part for each parameter: random ones, inner products and norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Vector: TypeAlias = list[Tensor]


def kept_in(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a vector's part: that of the parameter, but float32 for the half ones."""
    return torch.promote_types(dtype, torch.float32)


class Draws:
    """Random vectors that depend on the seed and on nothing else that torch has drawn.

    Each part is drawn on the device of its parameter, so that kinds of devices differ.

    Args:
        params: give the shapes, the devices and, by `kept_in`, the dtypes.
        seed: of all that is drawn.
    """

    def __init__(self, params: Sequence[Tensor], seed: int) -> None:
        self._params = params
        devices = {p.device for p in params}
        self._generators = {d: torch.Generator(d).manual_seed(seed) for d in devices}

    def normal(self) -> Vector:
        """Independent numbers from N(0, 1)."""
        return [self._drawn(torch.randn, p, p.shape) for p in self._params]

    def uniform(self) -> Vector:
        """Independent numbers from [-1, 1)."""
        drawn = [self._drawn(torch.rand, p, p.shape) for p in self._params]
        return [part.mul_(2.0).sub_(1.0) for part in drawn]

    def signs(self) -> Vector:
        """Independent numbers, -1 or 1 with the same probability."""
        return [part.sign_().add_(0.5).sign_() for part in self.uniform()]  # 0 counts as 1

    def rows(self, index: int, shape: tuple[int, int]) -> Tensor:
        """A matrix from N(0, 1), as parameter `index` would have it."""
        return self._drawn(torch.randn, self._params[index], shape)

    def _drawn(self, draw: Callable[..., Any], p: Tensor, shape: Sequence[int]) -> Tensor:
        generator = self._generators[p.device]
        drawn: Tensor = draw(shape, generator=generator, device=p.device, dtype=kept_in(p.dtype))
        return drawn


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return math.fsum(float((x * y).sum()) for x, y in zip(a, b))


def norm(a: Sequence[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(x)) for x in a))
