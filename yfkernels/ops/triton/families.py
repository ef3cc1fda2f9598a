"""The steps of csrc/tangents.h, as functions that the passes of tangents.py are compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import triton
import triton.language as tl

from yfkernels.ops import tangents
from yfkernels.ops.triton.layout import at


class Step(NamedTuple):
    """A family: functions on tiles of elements and on scalars.

    Attributes:
        numbers: the coefficients of a tensor to what the next two want: those that all families
            have, and the family's own, in float32.
        own: (numbers, g, w, slots) to B.
        advance: (numbers, g, w, h, slots, z) to B and Z after the step.
    """

    numbers: Any
    own: Any
    advance: Any


@triton.jit
def _float(coefficients, FIELD: tl.constexpr):
    return tl.load(coefficients + at(FIELD)).to(tl.float32)


@triton.jit
def _common_numbers(coefficients):
    lr = tl.load(coefficients + at("tangents.lr"))
    decay = tl.load(coefficients + at("tangents.decoupled_decay"))
    return (
        tl.load(coefficients + at("tangents.damping")) != 0.0,
        _float(coefficients, "tangents.damping"),
        _float(coefficients, "tangents.sign"),
        _float(coefficients, "tangents.coupled_decay"),
        (-decay).to(tl.float32),
        (1.0 - lr * decay).to(tl.float32),
        lr.to(tl.float32),
    )


@triton.jit
def _uphill(common, g, w):
    _, _, sign, decay, _, _, _ = common
    return sign * g + decay * w


@triton.jit
def _damped(common, z):
    counts, damping, _, _, _, _, _ = common
    return damping * tl.where(counts, z, 0.0)


@triton.jit
def _tilt(common, h, zw):
    """Of the gradient; zw is damped."""
    counts, _, sign, decay, _, _, _ = common
    return sign * tl.where(counts, h, 0.0) + decay * zw


@triton.jit
def _own_of(common, w, u):
    _, _, _, _, shrink, _, _ = common
    return shrink * w - u


@triton.jit
def _moved(common, zw, du, own):
    _, _, _, _, _, keep, lr = common
    return keep * zw - lr * du + own


@triton.jit
def _plain_numbers(coefficients):
    return _common_numbers(coefficients), ()


@triton.jit
def _plain_own(numbers, g, w, slots):
    return _own_of(numbers[0], w, _uphill(numbers[0], g, w))


@triton.jit
def _plain_advance(numbers, g, w, h, slots, z):
    common = numbers[0]
    zw = _damped(common, z[0])
    own = _plain_own(numbers, g, w, slots)
    return own, (_moved(common, zw, _tilt(common, h, zw), own),)


@triton.jit
def _momentum_numbers(coefficients):
    return (
        _common_numbers(coefficients),
        (
            _float(coefficients, "momentum.momentum"),
            _float(coefficients, "momentum.fresh"),
            _float(coefficients, "momentum.plain"),
            _float(coefficients, "momentum.averaged"),
        ),
    )


@triton.jit
def _momentum_own(numbers, g, w, slots):
    """Momentum, Nesterov's and quasi-hyperbolic."""
    common, own_numbers = numbers
    momentum, fresh, plain, averaged = own_numbers
    d = _uphill(common, g, w)
    return _own_of(common, w, plain * d + averaged * (momentum * slots[0] + fresh * d))


@triton.jit
def _momentum_advance(numbers, g, w, h, slots, z):
    common, own_numbers = numbers
    momentum, fresh, plain, averaged = own_numbers
    zw = _damped(common, z[0])
    tilted = _tilt(common, h, zw)
    zv = momentum * _damped(common, z[1]) + fresh * tilted
    own = _momentum_own(numbers, g, w, slots)
    return own, (_moved(common, zw, plain * tilted + averaged * zv, own), zv)


@triton.jit
def _adam_numbers(coefficients):
    return (
        _common_numbers(coefficients),
        (
            _float(coefficients, "adam.beta1"),
            _float(coefficients, "adam.fresh1"),
            _float(coefficients, "adam.beta2"),
            _float(coefficients, "adam.fresh2"),
            _float(coefficients, "adam.plain1"),
            _float(coefficients, "adam.averaged1"),
            _float(coefficients, "adam.plain2"),
            _float(coefficients, "adam.averaged2"),
            _float(coefficients, "adam.eps"),
        ),
    )


@triton.jit
def _adam_step(numbers, g, w, slots):
    """(g', s, 1 / (s + eps), u) of Adam and QHAdam."""
    common, own_numbers = numbers
    beta1, fresh1, beta2, fresh2, plain1, averaged1, plain2, averaged2, eps = own_numbers
    d = _uphill(common, g, w)
    s = tl.sqrt(plain2 * (d * d) + averaged2 * (beta2 * slots[1] + fresh2 * (d * d)))
    over = 1.0 / (eps + s)
    return d, s, over, (plain1 * d + averaged1 * (beta1 * slots[0] + fresh1 * d)) * over


@triton.jit
def _adam_own(numbers, g, w, slots):
    _, _, _, u = _adam_step(numbers, g, w, slots)
    return _own_of(numbers[0], w, u)


@triton.jit
def _adam_advance(numbers, g, w, h, slots, z):
    common, own_numbers = numbers
    beta1, fresh1, beta2, fresh2, plain1, averaged1, plain2, averaged2, _ = own_numbers
    d, s, over, u = _adam_step(numbers, g, w, slots)
    zw = _damped(common, z[0])
    tilted = _tilt(common, h, zw)
    squared = (2.0 * d) * tilted  # the derivative of g'²
    zm = beta1 * _damped(common, z[1]) + fresh1 * tilted
    zv = beta2 * _damped(common, z[2]) + fresh2 * squared
    numerator = plain1 * tilted + averaged1 * zm
    size = quotient(plain2 * squared + averaged2 * zv, 2.0 * s)
    own = _own_of(common, w, u)
    return own, (_moved(common, zw, (numerator - u * size) * over, own), zm, zv)


@triton.jit
def quotient(a, b):
    """a / b, and 0 where b is 0; without a branch around the division."""
    there = b != 0.0
    return tl.where(there, a, 0.0) / tl.where(there, b, 1.0)


STEPS: Mapping[str, Step] = {
    tangents.PLAIN.name: Step(_plain_numbers, _plain_own, _plain_advance),
    tangents.MOMENTUM.name: Step(_momentum_numbers, _momentum_own, _momentum_advance),
    tangents.ADAM.name: Step(_adam_numbers, _adam_own, _adam_advance),
}
