"""Float8, torch.float8_e4m3fn but 256 times smaller, whose bits are kept as uint8."""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import LARGEST_FLOAT8

_SMALLER = 256.0


def nearest(values: Tensor) -> Tensor:
    """The bits of the nearest number, for what is converted once; in a step it is left to chance.

    What is too large becomes the largest number.
    """
    inside = values.float().clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8)
    return (inside * _SMALLER).to(torch.float8_e4m3fn).view(torch.uint8)


def numbers(bits: Tensor) -> Tensor:
    """What the bits stand for, in float32."""
    return bits.view(torch.float8_e4m3fn).float() / _SMALLER
