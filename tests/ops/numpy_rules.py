"""Every rule in NumPy, in double precision, with how far float32 may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from support.roundings import SUM_OFF
from tables import DEVICE
from torch import Tensor

from yfkernels.ops.constants import METRIC_FLOOR
from yfkernels.ops.rules import (
    LAMB,
    LAMB_BYTES,
    QHADAM,
    QHADAM_BYTES,
    QHM,
    YELLOWFIN,
    YELLOWFIN_COMPACT,
    YELLOWFIN_DIAGONAL,
    YELLOWFIN_FLOAT8,
    YELLOWFIN_ROBUST,
    YELLOWFIN_SKETCH,
    Rule,
)

Array = NDArray[np.float64]
WITHOUT_AVERAGE = (YELLOWFIN_SKETCH, YELLOWFIN_ROBUST)
YELLOWFINS = (YELLOWFIN, *WITHOUT_AVERAGE)
LAMBS, QHADAMS = (LAMB, LAMB_BYTES), (QHADAM, QHADAM_BYTES)
PRECONDITIONED = (YELLOWFIN_DIAGONAL, YELLOWFIN_COMPACT, YELLOWFIN_FLOAT8)


def draw_coefficients(rule: Rule, rng: np.random.Generator) -> Tensor:
    """Two groups; what is a switch differs between them."""
    values = dict(zip(rule.fields, rng.uniform(0.1, 0.9, (len(rule.fields), 2)), strict=True))
    values["active"] = np.ones(2)
    if "decoupled" in values:
        values |= {"decoupled": rng.permutation([0.0, 1.0]), "eps": np.array([1e-2, 0.3])}
    if rule in LAMBS:
        values["correction"] = rng.permutation(3)[:2].astype(float)
        values["adapts"] = np.ones(2)
        values |= {"norm_min": np.array([0.0, 2.0]), "norm_max": np.array([math.inf, 3.0])}
        values |= {"ratio_min": np.array([0.0, 0.01]), "ratio_max": np.array([math.inf, 10.0])}
    return torch.from_numpy(np.stack([values[f] for f in rule.fields], 1)).to(DEVICE)


def direction(
    rule: Rule, c: dict[str, float], g: Array, p: Array, s: Sequence[Array], t: float
) -> tuple[Array, list[Array], float, Array | float]:
    """u, the states after step t, the gain on u but for the ratio, and what d in u is divided by.

    Of absolute values it makes the sizes that roundings are relative to: those of u and of the
    states if no two terms cancelled, but that the divisor is larger then, too.
    """
    if rule in YELLOWFINS:
        v = c["momentum"] * s[0]
        v = v + c["velocity_gain"] * (c["grad_scale"] * g + c["coupled_decay"] * p)
        kept = c["velocity_keep"] * v
        if rule in WITHOUT_AVERAGE:
            return v, [kept], c["param_gain"], 1.0
        average = c["average_decay"] * s[1] + c["average_gain"] * g
        return v, [kept, average], c["param_gain"], 1.0
    if rule in PRECONDITIONED:
        d = c["grad_scale"] * g + c["coupled_decay"] * p
        square_avg = c["average_decay"] * s[1] + c["average_gain"] * d * d
        q = metric(c, square_avg, t)
        pull = c["velocity_gain"] * c["update_clip"] * d / q
        if rule is YELLOWFIN_FLOAT8:
            v = c["momentum"] * c["unit_change"] * s[0] + pull / c["unit"]
            return v, [v, square_avg], c["unit"], q
        v = c["momentum"] * s[0] + pull
        return v, [v, square_avg], c["param_gain"], q
    coupled = 0.0 if c["decoupled"] else c["weight_decay"]
    d = c["grad_scale"] * g
    if rule is QHM:
        d = d + coupled * p
        m = c["beta"] * s[0] + (1 - c["beta"]) * d
        return (1 - c["nu"]) * d + c["nu"] * m, [m], -c["lr"], 1.0
    bias1, bias2 = 1 - c["beta1"] ** t, 1 - c["beta2"] ** t
    if rule in QHADAMS:
        d = d + coupled * p
        m = c["beta1"] * s[0] + (1 - c["beta1"]) * d
        v = c["beta2"] * s[1] + (1 - c["beta2"]) * d * d
        top = (1 - c["nu1"]) * d + c["nu1"] * m / bias1
        below = np.sqrt((1 - c["nu2"]) * d * d + c["nu2"] * v / bias2) + c["eps"]
        return top / below, [m, v], -c["lr"], below
    m = c["beta1"] * s[0] + c["beta3"] * d
    v = c["beta2"] * s[1] + (1 - c["beta2"]) * d * d
    lr = c["lr"]
    if c["correction"] == 2:
        lr *= math.sqrt(bias2) / bias1
    u, below = _lamb_direction(c, m, v, p, t)
    return u, [m, v], -lr, below


def recalled(rule: Rule, c: dict[str, float], p: Array, s: Sequence[Array], t: float) -> Array:
    """u once more, as the second of two passes finds it: from the states after step t."""
    return _lamb_direction(c, s[0], s[1], p, t)[0] if rule in LAMBS else s[0]


def _lamb_direction(
    c: dict[str, float], m: Array, v: Array, p: Array, t: float
) -> tuple[Array, Array]:
    """u, and what m is divided by."""
    debiases = c["correction"] == 1
    bias1, bias2 = (1 - c[beta] ** t if debiases else 1.0 for beta in ("beta1", "beta2"))
    below = np.sqrt(v / bias2) + c["eps"]
    return m / bias1 / below + (0.0 if c["decoupled"] else c["weight_decay"]) * p, below


def trust_ratio(rule: Rule, c: dict[str, float], p_sq: float, u_sq: float) -> float:
    if not (p_sq > 0 and u_sq > 0):
        return 1.0
    if rule not in LAMBS:
        return abs(c["velocity_gain"]) * math.sqrt(p_sq / u_sq)
    if not c["adapts"]:
        return 1.0
    norm = min(max(math.sqrt(p_sq), c["norm_min"]), c["norm_max"])
    return min(max(norm / math.sqrt(u_sq), c["ratio_min"]), c["ratio_max"])


def metric(c: dict[str, float], square_avg: Array, t: float) -> Array:
    """Adam's, of the average after step t."""
    return np.sqrt(square_avg / (1 - c["average_decay"] ** t)) + METRIC_FLOOR


def move_sums_of(
    rule: Rule,
    c: dict[str, float],
    g: Array,
    before: Array,
    after: Array,
    states: Sequence[Array],
    t: float,
    roundings: float,
    off: Array,
) -> tuple[Array, Array]:
    """What a move of the parameters leaves for the tuner, and how far that may be off.

    states: those after step t. roundings: relative error of a state or of u, but for what cancels.
    off: how far each parameter may be off.
    """
    growth = after**2 - before**2
    growth_off = SUM_OFF * abs(growth) + 2.0 * abs(after) * off
    if rule is YELLOWFIN_ROBUST:
        return np.array([growth.sum()]), np.array([growth_off.sum()])
    d = c["grad_scale"] * g + c["coupled_decay"] * before
    d_size = c["grad_scale"] * abs(g) + c["coupled_decay"] * abs(before)
    q = metric(c, states[1], t)
    q_off = roundings * (q + 2.0 * d_size)  # d enters q by a factor below 2
    square = d**2 / q
    square_off = SUM_OFF * square + roundings * d_size * abs(d) / q + square * q_off / q
    sums = np.array([(growth * q + c["shortfall"] * square).sum(), square.sum()])
    all_off = growth_off * q + abs(growth) * q_off + c["shortfall"] * square_off
    return sums, np.array([all_off.sum(), square_off.sum()])
