"""The members of a step that lie where those of the last one lay: found by a look, not by a search.

Where tensors are small, to gather the members of a step takes longer than the passes over them. So
what stays is kept, and every address is still looked at before it is used (ops/watch.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from yfkernels.ops.backends import watch_over
from yfkernels.ops.table import Column, TensorTable
from yfkernels.ops.watch import Entry, Place, Seen, Stored, addressable
from yfkernels.optim._tangents import Member, Passes, is_fusible, table_rows
from yfkernels.sharding.shards import is_dtensor

Groups = list[dict[str, Any]]
State = dict[Any, Any]


class Standing:
    """Members that one fused table has, and a watch over them; made by `of`.

    Attributes:
        members: in the order of the rows. Their coefficients are of the step that set them; they
            hold no tensor but the parameter, as the table has the addresses.
        table: over parameters, gradients and states.
    """

    def __init__(
        self,
        members: Sequence[Member],
        table: TensorTable,
        groups: Groups,
        state: State,
        states: Sequence[tuple[str, Column]],
    ) -> None:
        rows = {m.owner: row for row, m in enumerate(members)}
        entries = []
        for p in _params_of(groups):
            row = rows.get(p)
            place = Place.NOWHERE if row is None else Place.TABLE
            kept = [
                Stored(name, column, state[p][name], sharded=False)
                for name, column in (() if row is None else states)
            ]
            entries.append(Entry(place, 0, row or 0, p.detach(), False, kept))
        self.table = table
        self.members = [Member(m.group, m.owner, m.owner, m.owner, {}, m.family) for m in members]
        self._watch = watch_over([table], [len(group["params"]) for group in groups], entries)

    @classmethod
    def of(
        cls,
        members: Sequence[Member],
        passes: Passes,
        groups: Groups,
        state: State,
        states: Sequence[tuple[str, Column]],
    ) -> Standing | None:
        """Members that have just taken a step, in whole tensors on one device, all with a gradient.

        Args:
            members: of that step.
            passes: that they go through.
            groups, state: of the optimizer.
            states: of each: the name in its state, and the column.

        Returns:
            None if they do not fit into one table.
        """
        if not all(is_fusible(m) and m.param.numel() for m in members):
            return None
        if not all(not is_dtensor(p) and addressable(p.detach()) for p in _params_of(groups)):
            return None
        standing = []
        for m in members:
            own = state.get(m.owner, {})
            columns = {column: own[name] for name, column in states if name in own}
            if len(columns) < len(states) or not all(
                isinstance(c, Tensor) for c in columns.values()
            ):
                return None
            standing.append(Member(m.group, m.owner, m.owner.detach(), m.grad, columns, m.family))
        if len({(m.family, m.param.device) for m in standing}) != 1:
            return None
        if not all(map(is_fusible, standing)):
            return None
        backend = passes.backend_for(standing[0])
        if not backend.fused:
            return None
        table = TensorTable(backend, table_rows(standing))
        table.settle()
        made = cls(standing, table, groups, state, states)
        # of the gradients the first look says that they have appeared
        return made if not made._look(groups, state) & ~(Seen.MOVED | Seen.UPDATED) else None

    def holds(self, groups: Groups, state: State) -> bool:
        """Whether all lies as it did, but for addresses: those are in the table now."""
        return not self._look(groups, state) & ~Seen.MOVED

    def _look(self, groups: Groups, state: State) -> int:
        seen = self._watch.look(groups, state)
        if seen & Seen.MOVED:
            for _, column, addresses in self._watch.moved():
                self.table.backend.upload(self.table, Column(column), addresses)
        return seen


def _params_of(groups: Groups) -> list[Tensor]:
    return [p for group in groups for p in group["params"]]
