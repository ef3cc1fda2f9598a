"""The update rules of csrc/rules, as functions that the passes of update.py are compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import triton
import triton.language as tl

from yfkernels.ops import rules
from yfkernels.ops.triton.layout import at, bias_correction, number


class Formula(NamedTuple):
    """A rule: functions on tiles of elements and on scalars.

    Attributes:
        numbers: (coefficients, step, ratio) to two tuples of float32: keep and gain, with which a
            pass moves the parameter, p <- keep p + gain u; and what the next two functions want.
            The arguments are the group's coefficients, then doubles: this step of the tensor, from
            1, and a factor on its move.
        direction: (numbers, g, p, states) to u and the states after this step.
        recalled: (numbers, p, states) to u once more, from those states; None for a rule without
            a second pass.
        trust_ratio: (coefficients, ‖p‖², ‖u‖²) to the ratio; likewise.
        move_sums: (numbers, g, p, p after the move, states after it) to a tuple of an element's
            shares in what the tuner wants summed, one or two; None if it wants nothing.
    """

    numbers: Any
    direction: Any
    recalled: Any = None
    trust_ratio: Any = None
    move_sums: Any = None


@triton.jit
def power(base, n):
    """base^n for a whole n >= 0, in products alone, so that it has the host's bits."""
    result = base * 0.0 + 1.0
    left = n.to(tl.int64)
    while left > 0:
        result = tl.where(left & 1 != 0, result * base, result)
        base *= base
        left >>= 1
    return result


@triton.jit
def _float(coefficients, FIELD: tl.constexpr):
    return tl.load(coefficients + at(FIELD)).to(tl.float32)


@triton.jit
def _yellowfin_numbers(coefficients, step, ratio):
    # doubles, because float64 parameters are served from the same buffer
    gain = ratio * tl.load(coefficients + at("yellowfin.param_gain"))
    return (
        (_float(coefficients, "yellowfin.param_keep"), gain.to(tl.float32)),
        (
            _float(coefficients, "yellowfin.grad_scale"),
            _float(coefficients, "yellowfin.coupled_decay"),
            _float(coefficients, "yellowfin.momentum"),
            _float(coefficients, "yellowfin.velocity_gain"),
            _float(coefficients, "yellowfin.velocity_keep"),
            _float(coefficients, "yellowfin.average_decay"),
            _float(coefficients, "yellowfin.average_gain"),
        ),
    )


@triton.jit
def _yellowfin_direction(numbers, g, p, states):
    """Both momentum forms: the buffer's p <- p - lr v, and Polyak's p <- p + v with lr in v."""
    grad_scale, decay, momentum, velocity_gain, velocity_keep, average_decay, average_gain = numbers
    d = grad_scale * g + decay * p
    velocity = momentum * states[0] + velocity_gain * d
    kept = velocity_keep * velocity
    if len(states) == 1:
        return velocity, (kept,)
    else:
        return velocity, (kept, average_decay * states[1] + average_gain * g)


@triton.jit
def _yellowfin_recalled(numbers, p, states):
    return states[0]


@triton.jit
def _yellowfin_trust_ratio(coefficients, p_sq, u_sq):
    """The step is lr ‖p‖ long. Polyak's velocity has lr inside: |velocity_gain| is lr, else 1."""
    gain = tl.abs(tl.load(coefficients + at("yellowfin.velocity_gain")))
    return tl.where((p_sq > 0.0) & (u_sq > 0.0), gain * tl.sqrt(p_sq) / tl.sqrt(u_sq), 1.0)


@triton.jit
def _yellowfin_move_sums(numbers, g, before, after, states):
    """By how much ‖p‖² grows."""
    return ((after - before) * (after + before),)


@triton.jit
def _in_metric(coefficients, step, gain, momentum, velocity_gain):
    """The numbers of the preconditioned rules."""
    square_decay = tl.load(coefficients + at("yellowfin.average_decay"))
    return (
        (_float(coefficients, "yellowfin.param_keep"), gain.to(tl.float32)),
        (
            _float(coefficients, "yellowfin.grad_scale"),
            _float(coefficients, "yellowfin.coupled_decay"),
            momentum.to(tl.float32),
            velocity_gain.to(tl.float32),
            square_decay.to(tl.float32),
            _float(coefficients, "yellowfin.average_gain"),
            (1.0 / (1.0 - power(square_decay, step))).to(tl.float32),
            _float(coefficients, "yellowfin.shortfall"),
        ),
    )


@triton.jit
def _velocity_gain(coefficients):
    update_clip = tl.load(coefficients + at("yellowfin.update_clip"))
    return tl.load(coefficients + at("yellowfin.velocity_gain")) * update_clip


@triton.jit
def _preconditioned_numbers(coefficients, step, ratio):
    gain = tl.load(coefficients + at("yellowfin.param_gain"))
    momentum = tl.load(coefficients + at("yellowfin.momentum"))
    return _in_metric(coefficients, step, gain, momentum, _velocity_gain(coefficients))


@triton.jit
def _float8_numbers(coefficients, step, ratio):
    """Of a velocity in units."""
    unit = tl.load(coefficients + at("yellowfin.unit"))
    momentum = tl.load(coefficients + at("yellowfin.momentum"))
    momentum *= tl.load(coefficients + at("yellowfin.unit_change"))
    return _in_metric(coefficients, step, unit, momentum, _velocity_gain(coefficients) / unit)


@triton.jit
def _metric(numbers, square_avg):
    return tl.sqrt(numbers[6] * square_avg) + number("METRIC_FLOOR")


@triton.jit
def _preconditioned_direction(numbers, g, p, states):
    """Polyak's momentum in the shape of Adam's metric; d is over its root mean square already."""
    grad_scale, decay, momentum, velocity_gain, square_decay, square_gain, _, _ = numbers
    d = grad_scale * g + decay * p
    square_avg = square_decay * states[1] + square_gain * (d * d)
    velocity = momentum * states[0] + velocity_gain * (d / _metric(numbers, square_avg))
    return velocity, (velocity, square_avg)


@triton.jit
def _preconditioned_move_sums(numbers, g, before, after, states):
    """The growth of ‖p‖² in the metric, as if each group took the longest steps, and <d, u>.

    The compiler takes d / q from above.
    """
    d = numbers[0] * g + numbers[1] * before
    q = _metric(numbers, states[1])
    du = d * (d / q)
    return (after - before) * (after + before) * q + numbers[7] * du, du


@triton.jit
def _decays(coefficients):
    """Weight decay added to the gradient, or what it keeps of the parameter: (coupled, kept)."""
    lr = tl.load(coefficients + at("settings.lr"))
    decay = tl.load(coefficients + at("settings.weight_decay"))
    decoupled = tl.load(coefficients + at("settings.decoupled")) != 0.0
    coupled = tl.where(decoupled, 0.0, decay)
    return coupled.to(tl.float32), tl.where(decoupled, 1.0 - lr * decay, 1.0).to(tl.float32)


@triton.jit
def _qhm_numbers(coefficients, step, ratio):
    lr = tl.load(coefficients + at("qhm.lr"))
    beta = tl.load(coefficients + at("qhm.beta"))
    nu = tl.load(coefficients + at("qhm.nu"))
    decay, kept = _decays(coefficients)
    return (
        (kept, (-lr).to(tl.float32)),
        (
            _float(coefficients, "qhm.grad_scale"),
            decay,
            beta.to(tl.float32),
            (1.0 - beta).to(tl.float32),
            (1.0 - nu).to(tl.float32),
            nu.to(tl.float32),
        ),
    )


@triton.jit
def _qhm_direction(numbers, g, p, states):
    """Quasi-hyperbolic momentum (Ma & Yarats 2019)."""
    grad_scale, decay, beta, fresh, plain, averaged = numbers
    d = grad_scale * g + decay * p
    momentum = beta * states[0] + fresh * d
    return plain * d + averaged * momentum, (momentum,)


@triton.jit
def _qhadam_numbers(coefficients, step, ratio):
    lr = tl.load(coefficients + at("qhadam.lr"))
    beta1 = tl.load(coefficients + at("qhadam.beta1"))
    beta2 = tl.load(coefficients + at("qhadam.beta2"))
    nu1 = tl.load(coefficients + at("qhadam.nu1"))
    nu2 = tl.load(coefficients + at("qhadam.nu2"))
    decay, kept = _decays(coefficients)
    return (
        (kept, (-lr).to(tl.float32)),
        (
            _float(coefficients, "qhadam.grad_scale"),
            decay,
            beta1.to(tl.float32),
            (1.0 - beta1).to(tl.float32),
            beta2.to(tl.float32),
            (1.0 - beta2).to(tl.float32),
            (1.0 - nu1).to(tl.float32),
            (nu1 / (1.0 - power(beta1, step))).to(tl.float32),
            (1.0 - nu2).to(tl.float32),
            (nu2 / (1.0 - power(beta2, step))).to(tl.float32),
            _float(coefficients, "qhadam.eps"),
        ),
    )


@triton.jit
def _qhadam_direction(numbers, g, p, states):
    """Quasi-hyperbolic Adam (Ma & Yarats 2019), with debiased averages."""
    grad_scale, decay, beta1, fresh1, beta2, fresh2, plain1, averaged1, plain2, averaged2, eps = (
        numbers
    )
    d = grad_scale * g + decay * p
    m = beta1 * states[0] + fresh1 * d
    v = beta2 * states[1] + fresh2 * (d * d)
    size = eps + tl.sqrt(plain2 * (d * d) + averaged2 * v)
    return (plain1 * d + averaged1 * m) / size, (m, v)


@triton.jit
def _lamb_numbers(coefficients, step, ratio):
    lr = tl.load(coefficients + at("lamb.lr"))
    beta1 = tl.load(coefficients + at("lamb.beta1"))
    beta2 = tl.load(coefficients + at("lamb.beta2"))
    correction = tl.load(coefficients + at("lamb.correction"))
    of_moments = correction == bias_correction("MOMENTS")
    bias1 = 1.0 - power(beta1, step)
    bias2 = 1.0 - power(beta2, step)
    lr = tl.where(correction == bias_correction("LR"), lr * (tl.sqrt(bias2) / bias1), lr)
    decay, kept = _decays(coefficients)
    return (
        (kept, (-lr * ratio).to(tl.float32)),
        (
            _float(coefficients, "lamb.grad_scale"),
            decay,
            beta1.to(tl.float32),
            _float(coefficients, "lamb.beta3"),
            beta2.to(tl.float32),
            (1.0 - beta2).to(tl.float32),
            tl.where(of_moments, 1.0 / bias1, 1.0).to(tl.float32),
            tl.where(of_moments, 1.0 / bias2, 1.0).to(tl.float32),
            _float(coefficients, "lamb.eps"),
        ),
    )


@triton.jit
def _lamb_direction(numbers, g, p, states):
    """LAMB (arXiv 1904.00962 v5, algorithm 2)."""
    grad_scale, _, beta1, fresh1, beta2, fresh2, _, _, _ = numbers
    d = grad_scale * g
    m = beta1 * states[0] + fresh1 * d
    v = beta2 * states[1] + fresh2 * (d * d)
    return _lamb_recalled(numbers, p, (m, v)), (m, v)


@triton.jit
def _lamb_recalled(numbers, p, states):
    _, decay, _, _, _, _, debias1, debias2, eps = numbers
    return debias1 * states[0] / (eps + tl.sqrt(debias2 * states[1])) + decay * p


@triton.jit
def _lamb_trust_ratio(coefficients, p_sq, u_sq):
    adapts = tl.load(coefficients + at("lamb.adapts")) != 0.0
    norm = tl.maximum(tl.sqrt(p_sq), tl.load(coefficients + at("lamb.norm_min")))
    norm = tl.minimum(norm, tl.load(coefficients + at("lamb.norm_max")))
    ratio = tl.maximum(norm / tl.sqrt(u_sq), tl.load(coefficients + at("lamb.ratio_min")))
    ratio = tl.minimum(ratio, tl.load(coefficients + at("lamb.ratio_max")))
    return tl.where(adapts & (p_sq > 0.0) & (u_sq > 0.0), ratio, 1.0)


_YELLOWFIN = Formula(
    _yellowfin_numbers, _yellowfin_direction, _yellowfin_recalled, _yellowfin_trust_ratio
)
_ROBUST_YELLOWFIN = Formula(
    _yellowfin_numbers, _yellowfin_direction, move_sums=_yellowfin_move_sums
)
_PRECONDITIONED_YELLOWFIN = Formula(
    _preconditioned_numbers, _preconditioned_direction, move_sums=_preconditioned_move_sums
)
_QHADAM = Formula(_qhadam_numbers, _qhadam_direction)
_LAMB = Formula(_lamb_numbers, _lamb_direction, _lamb_recalled, _lamb_trust_ratio)
FORMULAS: Mapping[str, Formula] = {
    rules.YELLOWFIN.name: _YELLOWFIN,
    rules.YELLOWFIN_SKETCH.name: _YELLOWFIN,
    rules.QHM.name: Formula(_qhm_numbers, _qhm_direction),
    rules.QHADAM.name: _QHADAM,
    rules.LAMB.name: _LAMB,
    rules.YELLOWFIN_ROBUST.name: _ROBUST_YELLOWFIN,
    rules.YELLOWFIN_DIAGONAL.name: _PRECONDITIONED_YELLOWFIN,
    rules.YELLOWFIN_COMPACT.name: _PRECONDITIONED_YELLOWFIN,
    rules.YELLOWFIN_FLOAT8.name: _PRECONDITIONED_YELLOWFIN._replace(numbers=_float8_numbers),
    rules.QHADAM_BYTES.name: _QHADAM,
    rules.LAMB_BYTES.name: _LAMB,
}
