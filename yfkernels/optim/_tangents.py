"""The passes of a hypergradient tuner over whatever tensors an optimizer has in a step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from yfkernels._checks import refuse_sparse
from yfkernels.ops.backend import Backend
from yfkernels.ops.backends import check_backend, choose
from yfkernels.ops.memory import is_dense, same_layout
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.tangents import PROJECTED, PROJECTION, TANGENTS, Family, Projection, stored
from yfkernels.optim._closed_forms import ClosedForm, Coefficients, steps_of
from yfkernels.sharding.shards import ShardGroup, Sharding, local

WHOLE = Sharding()
# B as it lies in a column.
AS_STORED = dict(zip(PROJECTION, (1.0, 0.0, 0.0, 0.0, 0.0), strict=True))


@dataclass
class Member:
    """A parameter in this step.

    Attributes:
        group: its parameter group's number.
        owner: the parameter as the optimizer has it.
        param, grad: this process's part of it, and what stands in the column GRAD.
        columns: the other columns that the passes will touch.
        family: of its optimizer's step.
        taken: steps that the optimizer has counted.
        step: the coefficients of the family; members in the same place share them.
        projection, recall: how to project, and the coefficients; shared, too.
        shard: the processes that hold the other parts.
    """

    group: int
    owner: Tensor
    param: Tensor
    grad: Tensor
    columns: dict[Column, Tensor]
    family: Family
    taken: int = 0
    step: Coefficients = field(default_factory=dict)
    projection: Projection = field(default_factory=lambda: stored(None))
    recall: Mapping[str, float] = field(default_factory=lambda: AS_STORED)
    shard: ShardGroup | None = None


def gather(
    form: ClosedForm,
    base: Optimizer,
    grads: Mapping[Tensor, Tensor],
    lr_of: Callable[[dict[str, Any]], float],
) -> list[Member]:
    """The parameters with gradients, their slots, and the coefficients of the step that comes.

    Args:
        form: of the optimizer.
        base: the optimizer.
        grads: this process's part of the gradient of each parameter that has one.
        lr_of: the learning rate of a group.

    Raises:
        RuntimeError: a gradient is sparse, or a parameter complex.
    """
    for number, p in enumerate(p for group in base.param_groups for p in group["params"]):
        grad = grads.get(p)
        if grad is None:
            continue
        refuse_sparse(grad, number)
        if p.is_complex():
            raise RuntimeError(
                f"Parameter {number} of shape {tuple(p.shape)} is {p.dtype}, whose learning rate "
                "has no hypergradient here; keep its real and imaginary parts in a real "
                "parameter, see torch.view_as_complex"
            )
    members = []
    steps = steps_of(base.state, list(grads))
    coefficients = coefficients_by_place(form, base.param_groups, lr_of)
    for index, group in enumerate(base.param_groups):
        family = form.family(group)
        named = [(family.slot(k), name) for k, name in enumerate(family.slots)]
        for p in group["params"]:
            grad = grads.get(p)
            if grad is None:
                continue
            state = base.state.get(p, {})
            slots = {
                column: local(state[name]) for column, name in named if state.get(name) is not None
            }
            taken = steps.get(p, 0)
            step = coefficients(index, bool(slots), taken)
            part = local(p.detach())
            members.append(Member(index, p, part, grad, slots, family, taken, step))
    return members


def coefficients_by_place(
    form: ClosedForm, groups: list[dict[str, Any]], lr_of: Callable[[dict[str, Any]], float]
) -> Callable[[int, bool, int], Coefficients]:
    """Of the step that comes, by group, whether it has begun, and the steps that were taken.

    Worked out once for each: a model takes its steps together.
    """

    @cache
    def at(index: int, begun: bool, taken: int) -> Coefficients:
        group = groups[index]
        start = head(maximize=bool(group["maximize"]), decay=form.decay(group), lr=lr_of(group))
        return start | form.coefficients(group, begun=begun, step=taken + 1)

    return at


@dataclass
class _Kept:
    """A table that is good as long as everything lies where it lay."""

    places: list[int]
    table: TensorTable


class Passes:
    """Advances and projects members, in a launch for each kind of them.

    Args:
        backend: "auto", or the name of one.
    """

    def __init__(self, backend: str) -> None:
        check_backend(backend)
        self._backend = backend
        self._tables: dict[object, _Kept] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_backend": self._backend, "_tables": {}}  # addresses are of this process

    def advance(self, members: Iterable[Member]) -> None:
        """Z by one step of the optimizer, which has yet to be taken."""
        for same in _alike(members, lambda m: m.family):
            family = same[0].family
            table = self._over(same, family)
            rows = _rows(family.fields, [m.step for m in same], table.device)
            table.backend.advance_tangents(family, table, rows)

    def own_derivatives(self, members: list[Member], known: TensorTable | None = None) -> None:
        """B in the place of Zw; `known` as for `project`."""
        for same, table in self._sets(members, lambda m: m.family, known):
            family = same[0].family
            rows = _rows(family.fields, [m.step for m in same], table.device)
            table.backend.own_derivatives(family, table, rows)

    def project(
        self,
        members: list[Member],
        groups: int,
        sharding: Sharding = WHOLE,
        known: TensorTable | None = None,
    ) -> list[dict[str, float]]:
        """Of each group the sums PROJECTED over all processes, on the host.

        Args:
            members: those of this process.
            groups: how many parameter groups there are.
            sharding: of the optimizer's parameters; where it is not WHOLE, all processes call this.
            known: a table of just these members, up to date; None to look for what they need.
        """
        waiting: list[tuple[list[Member], Tensor]] = []
        for same, table in self._sets(members, lambda m: m.projection, known):
            projection = same[0].projection
            sums = torch.zeros(len(same), len(PROJECTED), dtype=torch.float64, device=table.device)
            rows = _rows(PROJECTION, [m.recall for m in same], table.device)
            table.backend.project(projection, table, rows, sums)
            waiting.append((same, sums))
        summed = [(m, row) for same, sums in waiting for m, row in zip(same, sums.tolist())]

        def part(shard: ShardGroup | None, device: torch.device) -> Tensor:
            totals = [[0.0] * len(PROJECTED) for _ in range(groups)]
            for m, row in summed:
                if m.shard == shard:
                    totals[m.group] = [a + b for a, b in zip(totals[m.group], row)]
            return torch.tensor(totals, dtype=torch.float64, device="cpu").to(device)

        total = sharding.total(part, torch.device("cpu"))
        return [dict(zip(PROJECTED, row)) for row in total.tolist()]

    def _sets(
        self,
        members: list[Member],
        kind: Callable[[Member], Hashable],
        known: TensorTable | None,
    ) -> list[tuple[list[Member], TensorTable]]:
        """Members that one table has, and the table."""
        if known is not None:
            return [(members, known)] if members else []
        return [(same, self._over(same, kind(same[0]))) for same in _alike(members, kind)]

    def backend_for(self, member: Member) -> Backend:
        """The one that takes a member and those like it."""
        param = member.param
        return choose(self._backend, param.device, param.dtype, is_fusible(member))

    def _over(self, members: Sequence[Member], kind: Hashable) -> TensorTable:
        """A table of members that are alike, with their gradients.

        Each kind of pass keeps its own: a validation may reach fewer members than the step before,
        and one table for both would be built anew in every pass.
        """
        first = members[0]
        backend = self.backend_for(first)
        if not backend.fused:
            table = TensorTable(backend, table_rows(members))
        else:
            columns = tuple(sorted(first.columns))
            staying = [column for column in columns if column != first.family.probe]
            places = [place for m in members for place in _places(m, staying)]
            key = (backend.name, first.param.device, first.family, columns, kind)
            kept = self._tables.get(key)
            if kept is None or kept.places != places:
                kept = _Kept(places, TensorTable(backend, table_rows(members)))
                kept.table.settle()
                self._tables[key] = kept
            table = kept.table
            backend.upload(table, Column.GRAD, [m.grad.data_ptr() for m in members])
            if (probe := first.family.probe) in first.columns:  # as new in each step as a gradient
                probes = [m.columns[probe].data_ptr() for m in members]
                backend.upload(table, probe, probes)
        table.bind([m.grad for m in members])
        return table


def _alike(members: Iterable[Member], kind: Callable[[Member], Hashable]) -> list[list[Member]]:
    """Members that one table can hold, in their order."""
    found: dict[Hashable, list[Member]] = {}
    for m in members:
        if not m.param.numel():
            continue
        columns = frozenset(m.columns)
        form = (m.param.device, m.param.dtype, is_fusible(m), m.family, columns, kind(m))
        found.setdefault(form, []).append(m)
    return list(found.values())


def is_fusible(member: Member) -> bool:
    """Whether the kernels take it: float32, and all columns in one order in one stretch."""
    param, strides = member.param, member.param.stride()
    tensors = (param, member.grad, *member.columns.values())
    return is_dense(param) and all(
        t.dtype == torch.float32 and (t.stride() == strides or same_layout(t, param))
        for t in tensors
    )


def _places(member: Member, columns: Sequence[Column]) -> list[int]:
    places = [member.columns[column].data_ptr() for column in columns]
    return [member.param.numel(), member.param.data_ptr(), *places]


def table_rows(members: Sequence[Member]) -> list[Row]:
    """Without the gradients."""
    return [
        Row(index=k, group=k, origin=0, columns={Column.PARAM: m.param.detach(), **m.columns})
        for k, m in enumerate(members)
    ]


def _rows(
    fields: Sequence[str], coefficients: Sequence[Mapping[str, float]], device: torch.device
) -> Tensor:
    """A row a tensor, where the table is."""
    made: dict[int, list[float]] = {}  # many tensors share theirs
    for each in coefficients:
        if id(each) not in made:
            made[id(each)] = [each[name] for name in fields]
    rows = [made[id(each)] for each in coefficients]
    return torch.tensor(rows, dtype=torch.float64, device="cpu").to(device)


def head(*, maximize: bool = False, decay: tuple[float, float], lr: float) -> Coefficients:
    """How the coefficients of every family begin; mu is 0, and B is left nowhere.

    Args:
        maximize: whether the optimizer ascends.
        decay: weight decay in the gradient, and beside it.
        lr: of the step that comes.
    """
    return dict(zip(TANGENTS, (0.0, -1.0 if maximize else 1.0, *decay, lr, 0.0)))


def recall_head(projected: Coefficients, decay: tuple[float, float], lr: float) -> Coefficients:
    """The coefficients with which B = -u - decay w is found after a step with that lr."""
    kept = 1.0 - lr * decay[1]
    given = {"averaged1": 0.0, "averaged2": 0.0, "eps": 0.0, **projected}
    return {"scale": -1.0 / kept, "decay": -decay[1] / kept, **given}
