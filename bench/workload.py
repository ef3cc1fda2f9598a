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
