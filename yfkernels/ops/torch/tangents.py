"""The passes of hypergradients in tensor operations: those of csrc/tangents.h, on any device.

They work in the dtype of the tangents. ops/tangents.py has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor

from yfkernels.ops import tangents
from yfkernels.ops.table import Row
from yfkernels.ops.tangents import PROJECTION, Family, Projection
from yfkernels.ops.torch.rules import Scalars
from yfkernels.ops.torch.sums import total

Given = Iterable[tuple[Tensor, Row, Tensor]]
"""(its place in what is written a row, row, gradient) of every tensor that has a gradient."""


class Step:
    """What a family's steps have in common: u = g', where there are no slots.

    Args:
        c: the coefficients of the tensor.
    """

    def __init__(self, c: Scalars) -> None:
        self.c = c

    def direction(self, d: Tensor, slots: Sequence[Tensor]) -> Tensor:
        """u, from g' and the slots before the step."""
        return d

    def tangent(
        self, d: Tensor, tilted: Tensor, slots: Sequence[Tensor], z: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """(du, tangents of the slots after the step), from damped z of the slots before it."""
        return (tilted,)

    def own(self, g: Tensor, w: Tensor, slots: Sequence[Tensor]) -> Tensor:
        """B: the step's own derivative of w to lr."""
        return -self.direction(self._uphill(g, w), slots) - self.c["decoupled_decay"] * w

    def advance(
        self, g: Tensor, w: Tensor, h: Tensor, slots: Sequence[Tensor], z: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """(B, Z after the step)."""
        c = self.c
        counts = c["damping"] != 0.0
        zw, *rest = (c["damping"] * torch.where(counts, each, 0.0) for each in z)
        tilted = c["sign"] * torch.where(counts, h, 0.0) + c["coupled_decay"] * zw
        du, *rest = self.tangent(self._uphill(g, w), tilted, slots, rest)
        own = self.own(g, w, slots)
        return own, (1.0 - c["lr"] * c["decoupled_decay"]) * zw - c["lr"] * du + own, *rest

    def _uphill(self, g: Tensor, w: Tensor) -> Tensor:
        return self.c["sign"] * g + self.c["coupled_decay"] * w


class Momentum(Step):
    """Momentum, Nesterov's and quasi-hyperbolic."""

    def direction(self, d: Tensor, slots: Sequence[Tensor]) -> Tensor:
        c = self.c
        return c["plain"] * d + c["averaged"] * (c["momentum"] * slots[0] + c["fresh"] * d)

    def tangent(
        self, d: Tensor, tilted: Tensor, slots: Sequence[Tensor], z: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        zv = self.c["momentum"] * z[0] + self.c["fresh"] * tilted
        return self.c["plain"] * tilted + self.c["averaged"] * zv, zv


class Adam(Step):
    """Adam and QHAdam."""

    def _parts(self, d: Tensor, slots: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, s)."""
        c = self.c
        m = c["beta1"] * slots[0] + c["fresh1"] * d
        v = c["beta2"] * slots[1] + c["fresh2"] * (d * d)
        square = c["plain2"] * (d * d) + c["averaged2"] * v
        return c["plain1"] * d + c["averaged1"] * m, square.sqrt()

    def direction(self, d: Tensor, slots: Sequence[Tensor]) -> Tensor:
        numerator, s = self._parts(d, slots)
        return numerator / (s + self.c["eps"])

    def tangent(
        self, d: Tensor, tilted: Tensor, slots: Sequence[Tensor], z: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        c = self.c
        numerator, s = self._parts(d, slots)
        size = s + c["eps"]
        zm = c["beta1"] * z[0] + c["fresh1"] * tilted
        zv = c["beta2"] * z[1] + c["fresh2"] * (2.0 * d * tilted)
        d_numerator = c["plain1"] * tilted + c["averaged1"] * zm
        d_square = c["plain2"] * (2.0 * d * tilted) + c["averaged2"] * zv
        d_size = torch.where(s != 0.0, d_square / (2.0 * s), 0.0)
        return (d_numerator - numerator / size * d_size) / size, zm, zv


_STEPS: dict[Family, type[Step]] = {
    tangents.PLAIN: Step,
    tangents.MOMENTUM: Momentum,
    tangents.ADAM: Adam,
}


def advance(family: Family, given: Given, coefficients: Tensor) -> None:
    """Z, and B where it is kept."""
    for _, row, grad in given:
        step, g, w, slots = _before(family, row, grad, coefficients)
        columns = [row.columns[family.tangent(k)] for k in range(family.tangents)]
        probe = row.columns[family.probe]
        own, *z = step.advance(g, w, probe.to(g.dtype), slots, columns)
        for column, new in zip(columns, z):
            column.copy_(new)
        probe.copy_(torch.where(step.c["keeps_own"] != 0.0, own.to(probe.dtype), probe))


def own_derivatives(family: Family, given: Given, coefficients: Tensor) -> None:
    """B, in the place of Zw."""
    for _, row, grad in given:
        step, g, w, slots = _before(family, row, grad, coefficients)
        row.columns[family.tangent()].copy_(step.own(g, w, slots))


def project(projection: Projection, given: Given, coefficients: Tensor) -> None:
    """The sums of every tensor."""
    for sums, row, grad in given:
        c = dict(zip(PROJECTION, coefficients[row.group].unbind()))
        wanted = [row.columns[column] for column in projection.reads]
        dtype = reduce(torch.promote_types, [each.dtype for each in wanted], torch.float32)
        e = grad.to(dtype)
        own = tangent = torch.zeros_like(e)
        if projection.own is not None:
            w = torch.where(c["decay"] != 0.0, row.param.to(dtype), 0.0)
            own = c["scale"] * _direction(projection, row, c) + c["decay"] * w
        if projection.tangent is not None:
            tangent = row.columns[projection.tangent]
        shares = (e * own, e * tangent, e * e, own * own, tangent * tangent)
        sums.copy_(torch.stack([total(share) for share in shares]))


def _direction(projection: Projection, row: Row, c: Scalars) -> Tensor:
    columns = [row.columns[column] for column in projection.sources]
    if len(columns) == 1:
        return columns[0]
    size = (c["averaged2"] * columns[1]).sqrt() + c["eps"]
    return torch.where(size != 0.0, c["averaged1"] * columns[0] / size, 0.0)


def _before(
    family: Family, row: Row, grad: Tensor, coefficients: Tensor
) -> tuple[Step, Tensor, Tensor, list[Tensor]]:
    """(step, g, w, slots) of a tensor, in the dtype of its tangents."""
    dtype = row.columns[family.tangent()].dtype
    slots = [row.columns[family.slot(k)].to(dtype) for k in range(len(family.slots))]
    scalars = dict(zip(family.fields, coefficients[row.group].unbind()))
    return _STEPS[family](scalars), grad.to(dtype), row.param.to(dtype), slots
