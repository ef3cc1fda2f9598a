"""The parameters and gradients that every contestant of one size works on."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from bench.sizes import Size

# Below the max_norm of the clipping contestants: clip_grad_norm_ then multiplies by exactly 1 at
# its usual cost, and all contestants can share one set of gradients.
GRADIENT_NORM = 0.5


def make_parameters(size: Size, device: torch.device) -> list[Tensor]:
    """Random fp32 parameters whose `.grad` is random, of total norm 0.5, and never replaced."""
    generator = torch.Generator(device).manual_seed(0)
    return [_parameter(shape, size.numel, generator, device) for shape in size.shapes]


def _parameter(
    shape: tuple[int, ...], numel: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    parameter = torch.randn(shape, generator=generator, device=device).requires_grad_()
    gradient = torch.randn(shape, generator=generator, device=device)
    parameter.grad = gradient.mul_(GRADIENT_NORM / sqrt(numel))
    return parameter


class MovingGradients:
    """Two sets of gradient tensors for the same parameters, at different addresses.

    In a training loop `zero_grad` frees the gradients, and on a CPU the next backward pass finds
    other places for nearly all of them.
    """

    def __init__(self, params: list[Tensor]) -> None:
        self._params = params
        self._home = [gradient_of(param) for param in params]
        self._away = [gradient.clone() for gradient in self._home]

    def move(self) -> None:
        """Give every parameter the gradient it does not have now."""
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
