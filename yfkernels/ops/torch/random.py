"""Random bits from counters, as csrc/rules.h has them: the same on every backend."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def mixed(x: Tensor) -> Tensor:
    """Spreads the bits of 32-bit words, kept in int64, over 32 bits."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def signs(origin: int, count: int, device: torch.device) -> Tensor:
    """The sketch's signs, +1.0 or -1.0, of elements origin .. origin + count - 1 of the model."""
    element = torch.arange(origin, origin + count, dtype=torch.int64, device=device)
    block = element >> 5
    words = mixed((block ^ (block >> 32)) & _MASK)
    return 1.0 - 2.0 * ((words >> (element & 31)) & 1).double()


def rounded(values: Tensor, dtype: torch.dtype, origin: int, step: Tensor) -> Tensor:
    """float32 rounded stochastically: up or down to a neighbour, so that the mean is kept.

    Args:
        values: one dimension, in memory order.
        dtype: bfloat16 or float16.
        origin: index of the first element in the whole model.
        step: number of this step, from 1.
    """
    element = torch.arange(origin, origin + values.numel(), device=values.device)
    seed = mixed((mixed(step.long() & _MASK) + (element >> 32)) & _MASK)
    random = mixed((element & _MASK) ^ seed)
    bits = values.view(torch.int32).long() & _MASK
    if dtype == torch.bfloat16:
        halves = (bits + (random & 0xFFFF)) >> 16
    else:
        sign, magnitude, tail = (bits >> 16) & 0x8000, bits & 0x7FFFFFFF, random & 0x1FFF
        normal = (magnitude + tail - (112 << 23)) >> 13
        # below 2^-14: multiples of 2^-24, counted
        small = (values.abs() * 2.0**24 + tail.float() * 2.0**-13).clamp(max=2048.0).long()
        halves = torch.where(magnitude < 113 << 23, small, normal).clamp(max=0x7C00) | sign
    signed = torch.where(halves >= 0x8000, halves - 0x10000, halves)
    return torch.where(values.isnan(), values.to(dtype), signed.to(torch.int16).view(dtype))
