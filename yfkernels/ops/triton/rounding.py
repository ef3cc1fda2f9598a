"""float32 to the half precisions, and the random bits of stochastic rounding.

Bit for bit what csrc/random.h, csrc/codes.h and csrc/cpu/lanes.h do.
"""

from __future__ import annotations

import triton
import triton.language as tl

from yfkernels.ops.triton.layout import code_base, code_shift, number


@triton.jit
def mixed(x):
    """The bits of x, spread over 32. x: uint32."""
    x ^= x >> 16
    x *= number("MIX_1")
    x ^= x >> 15
    x *= number("MIX_2")
    x ^= x >> 16
    return x


@triton.jit
def rounding_seed(element, step):
    """Of a step and of the stretch of 2^32 elements that `element` (int64) lies in."""
    # a block of one: unlike a scalar it may overflow in the interpreter without a warning
    step = tl.full([1], 0, tl.uint32) + step.to(tl.uint32)
    return mixed(mixed(step) + (element >> 32).to(tl.uint32))


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """float32 rounded to nearest even. Spelt out for bfloat16, which the interpreter truncates."""
    if DTYPE.is_bf16():
        bits = x.to(tl.uint32, bitcast=True)
        return _bfloat16(x, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
    else:
        return x.to(DTYPE)


@triton.jit
def round_randomly(x, random, DTYPE: tl.constexpr):
    """float32 rounded up or down to a neighbour, with a probability that keeps the mean.

    random: 32 random bits for each element.
    """
    bits = x.to(tl.uint32, bitcast=True)
    if DTYPE.is_bf16():
        return _bfloat16(x, (bits + (random & 0xFFFF)) >> 16)
    else:
        magnitude = bits & 0x7FFFFFFF
        tail = random & 0x1FFF
        rounded = (magnitude + tail - (112 << 23)) >> 13
        # below 2^-14: multiples of 2^-24, counted
        small = magnitude < (113 << 23)
        share = tail.to(tl.int32).to(tl.float32) * (1.0 / (1 << 13))
        count = tl.where(small, tl.abs(x), 0.0) * float(1 << 24) + share
        rounded = tl.where(small, count.to(tl.int32).to(tl.uint32), rounded)
        rounded = tl.where(rounded > 0x7C00, 0x7C00, rounded)  # beyond the largest
        rounded = tl.where(x == x, rounded, 0x7E00) | ((bits >> 16) & 0x8000)
        return rounded.to(tl.uint16).to(tl.float16, bitcast=True)


@triton.jit
def code_of(x, random, STORED: tl.constexpr):
    """The 8-bit codes of floats that are not negative, rounded randomly.

    random: 32 bits for each element; STORED: the Stored of ops/rules.py that has these codes.
    """
    SHIFT: tl.constexpr = code_shift(STORED)
    bits = x.to(tl.uint32, bitcast=True) + (random >> (32 - SHIFT))
    base = tl.full([1], code_base(STORED), tl.uint32)
    return tl.minimum((tl.maximum(bits, base) - base) >> SHIFT, 255).to(tl.uint8)


@triton.jit
def float_of(code, STORED: tl.constexpr):
    """What the codes stand for."""
    bits = (code.to(tl.uint32) << code_shift(STORED)) + code_base(STORED)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def unit_of(squares):
    """What first moments are counted in, from second moments in codes: a power of two."""
    exponent = (squares.to(tl.uint32, bitcast=True) >> 24) + number("MOMENT_UNIT")
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def inverse_unit_of(squares):
    """One over that."""
    exponent = 254 - number("MOMENT_UNIT") - (squares.to(tl.uint32, bitcast=True) >> 24)
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def float8_of(x, random):
    """The bits of float8, rounded randomly; random: 32 bits for each element."""
    x = tl.minimum(tl.maximum(x, -number("LARGEST_FLOAT8")), number("LARGEST_FLOAT8"))
    half = x.to(tl.float16).to(tl.uint16, bitcast=True).to(tl.uint32)
    rounded = (half + ((random >> 8) & 0x7F)) >> 7
    return ((rounded & 0x7F) | ((rounded & 0x100) >> 1)).to(tl.uint8)


@triton.jit
def float_of_float8(bits):
    """What the bits of float8 stand for."""
    bits = bits.to(tl.uint16)
    half = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
    return half.to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _bfloat16(x, rounded):
    """The bfloat16 with the bits `rounded`, or the NaN that x is."""
    bits = tl.where(x == x, rounded, (x.to(tl.uint32, bitcast=True) >> 16) | 0x40)
    return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
