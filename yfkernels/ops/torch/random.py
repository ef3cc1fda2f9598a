"""Random bits from counters, as csrc/random.h and csrc/codes.h have them: the same on every
backend."""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import LARGEST_FLOAT8, MIX_1, MIX_2, MOMENT_UNIT, WEYL

_MASK = 0xFFFFFFFF


def mixed(x: Tensor) -> Tensor:
    """Spreads the bits of 32-bit words, kept in int64, over 32 bits."""
    x = x ^ (x >> 16)
    x = (x * MIX_1) & _MASK
    x = x ^ (x >> 15)
    x = (x * MIX_2) & _MASK
    return x ^ (x >> 16)


def signs(origin: int, count: int, device: torch.device) -> Tensor:
    """The sketch's signs, +1.0 or -1.0, of elements origin .. origin + count - 1 of the model."""
    element = torch.arange(origin, origin + count, dtype=torch.int64, device=device)
    block = element >> 5
    words = mixed((block ^ (block >> 32)) & _MASK)
    return 1.0 - 2.0 * ((words >> (element & 31)) & 1).double()


def _elements(origin: int, values: Tensor) -> Tensor:
    return torch.arange(origin, origin + values.numel(), device=values.device)


def _seed(element: Tensor, step: Tensor) -> Tensor:
    return mixed((mixed(step.long() & _MASK) + (element >> 32)) & _MASK)


def coded(values: Tensor, code_format: tuple[int, int], origin: int, step: Tensor) -> Tensor:
    """Floats that are not negative, as 8-bit codes, rounded stochastically.

    Args:
        values: float32, one dimension, in memory order.
        code_format: constants.RELATIVE_CODES or constants.ABSOLUTE_CODES.
        origin: index of the first element in the whole model.
        step: number of this step, from 1.
    """
    shift, base = code_format
    random = _random_of_codes(values, origin, step)
    bits = values.view(torch.int32).long() + (random >> 32 - shift)
    code = (bits - base) >> shift
    return code.clamp(0, 255).to(torch.uint8)


def decoded(codes: Tensor, code_format: tuple[int, int]) -> Tensor:
    """What the codes stand for, in float32."""
    shift, base = code_format
    return ((codes.int() << shift) + base).view(torch.float32)


def unit_of(squares: Tensor) -> Tensor:
    """What first moments are counted in, from second moments in codes: a power of two."""
    exponent = (squares.float().view(torch.int32) >> 24) + MOMENT_UNIT
    return (exponent << 23).view(torch.float32)


def in_float8(values: Tensor, origin: int, step: Tensor) -> Tensor:
    """float32 as the bits of float8 (ops/float8.py), in uint8, rounded stochastically.

    Arguments as for `coded`, but of either sign. What is too large becomes the largest number.
    """
    half = values.clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8).half().view(torch.int16).long()
    random = (_random_of_codes(values, origin, step) >> 8) & 0x7F
    rounded = ((half & 0xFFFF) + random) >> 7
    return ((rounded & 0x7F) | ((rounded & 0x100) >> 1)).to(torch.uint8)


def _random_of_codes(values: Tensor, origin: int, step: Tensor) -> Tensor:
    """32 random bits for each element, evenly spread over neighbors."""
    element = _elements(origin, values)
    return ((element + _seed(element, step)) * WEYL) & _MASK


def rounded(
    values: Tensor, dtype: torch.dtype, origin: int, step: Tensor, *, of_average: bool = False
) -> Tensor:
    """float32 rounded stochastically: up or down to a neighbour, so that the mean is kept.

    Args:
        values: one dimension, in memory order.
        dtype: bfloat16 or float16.
        origin: index of the first element in the whole model.
        step: number of this step, from 1.
        of_average: an average takes other random bits than its parameter.
    """
    element = _elements(origin, values)
    seed = _seed(element, step) ^ (_MASK if of_average else 0)
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
