"""The parameters and gradients that every contestant of one size works on."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from bench.speed.sizes import Shape, Size

# Below the max_norm of the clipping contestants: clip_grad_norm_ then multiplies by exactly 1 at
# its usual cost, and all contestants can share one set of gradients.
GRADIENT_NORM = 0.5


def make_parameters(
    size: Size, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Random parameters whose `.grad` is random, of total norm 0.5, and never replaced."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(shape: Shape) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    params = [normal(shape).requires_grad_() for shape in size.shapes]
    for param in params:
        param.grad = normal(param.shape).mul_(GRADIENT_NORM / sqrt(size.numel))
    return params


class MovingGradients:
    """Two sets of gradient tensors for the same parameters, at different addresses.

    In a training loop `zero_grad` frees the gradients, and on a CPU the next backward pass finds
    other places for nearly all of them.
    """

    def __init__(self, params: list[Tensor]) -> None:
        self._params = params
        self._home = [gradient_of(param) for param in params]
        self._away: list[Tensor] = []  # made when wanted: at 1e9 parameters they are 4 GB

    def move(self) -> None:
        """Give every parameter the gradient it does not have now."""
        self._away = self._away or [gradient.clone() for gradient in self._home]
        at_home = self._params[0].grad is self._home[0]
        self._assign(self._away if at_home else self._home)

    def restore(self) -> None:
        """Give the parameters the gradients they came with."""
        self._assign(self._home)

    def _assign(self, gradients: list[Tensor]) -> None:
        for param, gradient in zip(self._params, gradients, strict=True):
            param.grad = gradient


def gradient_of(param: Tensor) -> Tensor:
    """The gradient of a parameter that has one."""
    assert param.grad is not None
    return param.grad
