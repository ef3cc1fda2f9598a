"""The update rules in tensor operations: those of csrc/rules, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yfkernels.ops import rules
from yfkernels.ops.constants import METRIC_FLOOR
from yfkernels.ops.rules import BiasCorrection, Rule

Scalars = dict[str, Tensor]
"""A group's coefficients by name: float64, no dimension."""


class Formula:
    """What ends every rule: p <- keep p + gain u.

    Args:
        c: the coefficients of the tensor's group.
        step: number of this step for this tensor, from 1.
        ratio: a factor on the move.
    """

    keep: Tensor
    gain: Tensor

    def __init__(self, c: Scalars, step: Tensor, ratio: Tensor) -> None:
        self.c = c
        decoupled = c["decoupled"] != 0.0
        self.decay = torch.where(decoupled, 0.0, c["weight_decay"])
        self.keep = torch.where(decoupled, 1.0 - c["lr"] * c["weight_decay"], 1.0)
        self.gain = -c["lr"] * ratio

    def direction(self, g: Tensor, p: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """(u, state after the step): the direction of the move."""
        raise NotImplementedError

    def recalled(self, p: Tensor, state: Sequence[Tensor]) -> Tensor:
        """u once more, from the state after the step."""
        raise NotImplementedError

    @staticmethod
    def trust_ratio(c: Scalars, p_sq: Tensor, u_sq: Tensor) -> Tensor:
        """The factor on the move, from ‖p‖² and ‖u‖²."""
        raise NotImplementedError

    def moved(self, p: Tensor, u: Tensor) -> Tensor:
        return self.keep * p + self.gain * u

    def move_sums(
        self, g: Tensor, before: Tensor, after: Tensor, state: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """What the tuner wants summed over all elements of the move; the state has advanced."""
        raise NotImplementedError


class YellowFin(Formula):
    """Momentum SGD in two forms; with an average of the gradient if it has a place for one."""

    def __init__(self, c: Scalars, step: Tensor, ratio: Tensor) -> None:
        self.c = c
        self.keep, self.gain = c["param_keep"], c["param_gain"] * ratio

    def direction(self, g: Tensor, p: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        c = self.c
        d = c["grad_scale"] * g + c["coupled_decay"] * p
        velocity = c["momentum"] * state[0] + c["velocity_gain"] * d
        averages = (c["average_decay"] * gbar + c["average_gain"] * g for gbar in state[1:])
        return velocity, c["velocity_keep"] * velocity, *averages

    def move_sums(
        self, g: Tensor, before: Tensor, after: Tensor, state: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return ((after - before) * (after + before),)

    def recalled(self, p: Tensor, state: Sequence[Tensor]) -> Tensor:
        return state[0]

    @staticmethod
    def trust_ratio(c: Scalars, p_sq: Tensor, u_sq: Tensor) -> Tensor:
        ratio = c["velocity_gain"].abs() * p_sq.sqrt() / u_sq.sqrt()
        return torch.where((p_sq > 0.0) & (u_sq > 0.0), ratio, 1.0)


class PreconditionedYellowFin(Formula):
    """Polyak's momentum in the shape of Adam's metric; d is over its root mean square already."""

    def __init__(self, c: Scalars, step: Tensor, ratio: Tensor) -> None:
        self.c = c
        self.keep, self.gain = c["param_keep"], c["param_gain"]
        self.momentum, self.velocity_gain = c["momentum"], c["velocity_gain"] * c["update_clip"]
        self.debias = 1.0 / (1.0 - c["average_decay"] ** step)

    def _metric(self, square_avg: Tensor) -> Tensor:
        return (self.debias * square_avg).sqrt() + METRIC_FLOOR

    def direction(self, g: Tensor, p: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        c = self.c
        d = c["grad_scale"] * g + c["coupled_decay"] * p
        square_avg = c["average_decay"] * state[1] + c["average_gain"] * (d * d)
        u = d / self._metric(square_avg)
        velocity = self.momentum * state[0] + self.velocity_gain * u
        return velocity, velocity, square_avg

    def move_sums(
        self, g: Tensor, before: Tensor, after: Tensor, state: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        d = self.c["grad_scale"] * g + self.c["coupled_decay"] * before
        q = self._metric(state[1])
        du = d * (d / q)
        return (after - before) * (after + before) * q + self.c["shortfall"] * du, du


class Float8YellowFin(PreconditionedYellowFin):
    """With the velocity in units that follow the length of the steps."""

    def __init__(self, c: Scalars, step: Tensor, ratio: Tensor) -> None:
        super().__init__(c, step, ratio)
        self.gain = c["unit"]
        self.momentum = self.momentum * c["unit_change"]
        self.velocity_gain = self.velocity_gain / c["unit"]


class QHM(Formula):
    """Quasi-hyperbolic momentum (Ma & Yarats 2019)."""

    def direction(self, g: Tensor, p: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        c = self.c
        d = c["grad_scale"] * g + self.decay * p
        average = c["beta"] * state[0] + (1.0 - c["beta"]) * d
        return (1.0 - c["nu"]) * d + c["nu"] * average, average


class QHAdam(Formula):
    """Quasi-hyperbolic Adam (Ma & Yarats 2019)."""

    def __init__(self, c: Scalars, step: Tensor, ratio: Tensor) -> None:
        super().__init__(c, step, ratio)
        self.averaged1 = c["nu1"] / (1.0 - c["beta1"] ** step)
        self.averaged2 = c["nu2"] / (1.0 - c["beta2"] ** step)

    def direction(self, g: Tensor, p: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        c = self.c
        d = c["grad_scale"] * g + self.decay * p
        m = c["beta1"] * state[0] + (1.0 - c["beta1"]) * d
        v = c["beta2"] * state[1] + (1.0 - c["beta2"]) * (d * d)
        size = ((1.0 - c["nu2"]) * (d * d) + self.averaged2 * v).sqrt() + c["eps"]
        return ((1.0 - c["nu1"]) * d + self.averaged1 * m) / size, m, v


class LAMB(Formula):
    """LAMB (arXiv 1904.00962 v5, algorithm 2)."""

    def __init__(self, c: Scalars, step: Tensor, ratio: Tensor) -> None:
        super().__init__(c, step, ratio)
        bias1, bias2 = 1.0 - c["beta1"] ** step, 1.0 - c["beta2"] ** step
        of_moments = c["correction"] == BiasCorrection.MOMENTS
        self.debias1 = torch.where(of_moments, 1.0 / bias1, 1.0)
        self.debias2 = torch.where(of_moments, 1.0 / bias2, 1.0)
        of_lr = c["correction"] == BiasCorrection.LR
        self.gain = self.gain * torch.where(of_lr, bias2.sqrt() / bias1, 1.0)

    def direction(self, g: Tensor, p: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        c = self.c
        d = c["grad_scale"] * g
        m = c["beta1"] * state[0] + c["beta3"] * d
        v = c["beta2"] * state[1] + (1.0 - c["beta2"]) * (d * d)
        return self.recalled(p, (m, v)), m, v

    def recalled(self, p: Tensor, state: Sequence[Tensor]) -> Tensor:
        m, v = state
        return self.debias1 * m / ((self.debias2 * v).sqrt() + self.c["eps"]) + self.decay * p

    @staticmethod
    def trust_ratio(c: Scalars, p_sq: Tensor, u_sq: Tensor) -> Tensor:
        norm = p_sq.sqrt().clamp(c["norm_min"], c["norm_max"])
        ratio = (norm / u_sq.sqrt()).clamp(c["ratio_min"], c["ratio_max"])
        return torch.where((c["adapts"] != 0.0) & (p_sq > 0.0) & (u_sq > 0.0), ratio, 1.0)


_UPDATES: dict[Rule, type[Formula]] = {
    rules.YELLOWFIN: YellowFin,
    rules.YELLOWFIN_SKETCH: YellowFin,
    rules.QHM: QHM,
    rules.QHADAM: QHAdam,
    rules.LAMB: LAMB,
    rules.YELLOWFIN_ROBUST: YellowFin,
    rules.YELLOWFIN_DIAGONAL: PreconditionedYellowFin,
    rules.YELLOWFIN_COMPACT: PreconditionedYellowFin,
    rules.YELLOWFIN_FLOAT8: Float8YellowFin,
    rules.QHADAM_BYTES: QHAdam,
    rules.LAMB_BYTES: LAMB,
}


def formula_of(rule: Rule) -> type[Formula]:
    """The rule's mathematics."""
    return _UPDATES[rule]
