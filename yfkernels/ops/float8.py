"""Velocities in float8, torch.float8_e5m2, whose bits are kept as uint8."""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import LARGEST_FLOAT8


def nearest(values: Tensor) -> Tensor:
    """The bits of the nearest number, for what is converted once; in a step it is left to chance.

    What is too large becomes the largest number.
    """
    inside = values.float().clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8)
    return inside.to(torch.float8_e5m2).view(torch.uint8)


def numbers(bits: Tensor) -> Tensor:
    """What the bits stand for, in float32."""
    return bits.view(torch.float8_e5m2).float()
