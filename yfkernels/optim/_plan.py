"""An optimizer's parameters sorted into tensor tables, and the tables kept true in every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yfkernels._checks import refuse_sparse
from yfkernels.ops.backend import Backend
from yfkernels.ops.backends import choose, watch_over
from yfkernels.ops.memory import is_dense, same_layout
from yfkernels.ops.table import Column, Row, TensorTable, origin_after
from yfkernels.ops.watch import Entry, Place, Seen, Stored, addressable, has_memory
from yfkernels.optim._state import StateLayout, view_of
from yfkernels.sharding import shards
from yfkernels.sharding.processes import Division
from yfkernels.sharding.shards import ShardGroup, Sharding

Groups = list[dict[str, Any]]
State = dict[Tensor, dict[str, Any]]


class _Key(NamedTuple):
    """What the tensors of a table have in common."""

    backend: Backend
    device: torch.device
    dtype: torch.dtype
    shard: ShardGroup | None
    group: int  # 0 unless groups are tuned for themselves


class Plan:
    """Tables for the parameters that have had a gradient.

    It holds no tensor of the program but the parameters: where state and gradients lie is asked
    anew in every step, and the tables follow.

    Args:
        groups: the optimizer's parameter groups.
        state: its state; what a parameter lacks is made and put there.
        layout: the state that a parameter has.
        backend: as the optimizer was asked for.
        division: how processes share the parameters.
        by_group: whether each parameter group has tables of its own.
        before: tables of the plan before, whose norms are taken over.

    Attributes:
        tables: of everything that has an element here.
        sharding: the processes that share the parameters.
        empty_parts: parameters that have steps to count, and no element here, each with the
            group of its table if it had one.

    Raises:
        RuntimeError: a parameter was resized and its state or its gradient was not.
    """

    def __init__(
        self,
        groups: Groups,
        state: State,
        layout: StateLayout,
        backend: str,
        division: Division,
        before: Sequence[TensorTable],
        *,
        by_group: bool,
    ) -> None:
        self._layout = layout
        self._backend = backend
        self._shard_group = division.shard_group
        self.tables: list[TensorTable] = []
        self.empty_parts: list[tuple[int, Tensor]] = []
        self._empty_parts: list[tuple[int, int]] = []  # which they are
        self.params = params = [param for _, param in _all(groups)]
        _refuse_twice(params)
        for index, param in enumerate(params):
            if param.grad is not None:
                refuse_sparse(param.grad, index)
        split_over: dict[ShardGroup, None] = {}
        rows: dict[_Key, list[Row]] = {}
        members: dict[_Key, list[Tensor]] = {}
        places: list[tuple[Place, _Key | None, int]] = []
        stored: list[list[Stored]] = []
        end = division.origin
        for group, param in _all(groups):
            view = view_of(param)
            tuned = group if by_group else 0
            shard = division.shard_group(param)
            start = origin_after(end, _numel(param))
            end = start + _numel(param)
            stored.append([])
            if param.grad is None and not layout.begun(state.get(param)):
                watched = addressable(shards.local(param.detach()))
                places.append((Place.NOWHERE if watched else Place.PLAIN, None, 0))
                continue
            if shard is not None:
                split_over[shard] = None
            columns = {
                Column.PARAM: view,
                **layout.bring(param, view, state.setdefault(param, {})),
            }
            if not view.numel():
                places.append((Place.EMPTY, None, 0))
                stored[-1] = self._stored(param, view, state[param], columns)
                if Column.STEP in columns:
                    self._empty_parts.append((tuned, len(places) - 1))
                continue
            key = self._key(tuned, param, view)
            place = Place.TABLE if key.backend.fused else Place.PLAIN
            same = rows.setdefault(key, [])
            places.append((place, key, len(same)))
            if place == Place.TABLE:
                stored[-1] = self._stored(param, view, state[param], columns)
            first = start + shards.shard_offset(param)
            same.append(Row(len(places) - 1, 0 if by_group else group, first, columns))
            members.setdefault(key, []).append(param)
        for key, same in rows.items():
            table = TensorTable(key.backend, same, key.shard, key.group)
            table.inherit_norms(before)
            table.params = list(map(_versioned, members[key]))
            self.tables.append(table)
        device = params[0].device if params else torch.device("cpu")
        self.sharding = Sharding(tuple(split_over), division.between(params, device))
        number = {key: index for index, key in enumerate(rows)}
        entries = [
            Entry(
                place,
                0 if key is None else number[key],
                row,
                shards.local(param.detach()),
                shards.is_dtensor(param),
                states,
            )
            for (_, param), (place, key, row), states in zip(_all(groups), places, stored)
        ]
        sizes = [len(group["params"]) for group in groups]
        self._watch = watch_over(self.tables, sizes, entries)
        self._plain = [table for table in self.tables if not table.backend.fused]
        # of those the watch says nothing: not even that they have a gradient now
        self._unwatched = [
            index
            for index, (place, key, _) in enumerate(places)
            if place == Place.PLAIN and key is None
        ]
        self._written_back: list[tuple[Tensor, Tensor]] = []

    def settle(self) -> None:
        """To be called when the tables are in use: the tensors are the program's again."""
        for table in self.tables:
            if table.backend.fused:
                table.settle()

    def _key(self, group: int, param: Tensor, view: Tensor) -> _Key:
        """Where a parameter belongs with the gradient it has now."""
        grad = param.grad
        fusible = is_dense(view) and addressable(shards.local(param.detach()))
        if grad is not None:
            fusible &= grad.dtype == param.dtype and has_memory(shards.local(grad))
        backend = choose(self._backend, view.device, view.dtype, fusible)
        return _Key(backend, view.device, view.dtype, self._shard_group(param), group)

    def _stored(
        self, param: Tensor, view: Tensor, state: Mapping[str, Any], columns: dict[Column, Tensor]
    ) -> list[Stored]:
        return [
            Stored(name, column, columns[column], shards.is_dtensor(state[name]))
            for name, column in self._layout.columns(view).items()
        ]

    def buffers(self) -> Iterator[Tensor]:
        """What was made here and kernels read or write."""
        for table in self.tables:
            yield from table.buffers()

    # ---- every step

    def write_everything(self) -> None:
        """Has the next `bind` write every address again, whatever was written before."""
        self._watch.forget()

    def bind(self, groups: Groups, state: State) -> int:
        """Brings the tables up to date with the live parameters, gradients and states.

        Returns:
            PLAN if these tables do not describe the optimizer any more, and then they may be half
            way; NO_GRADIENT if there is nothing to do; or SAME.

        Raises:
            RuntimeError: a gradient has another shape than its parameter.
        """
        seen = self._watch.look(groups, state)
        if seen & Seen.PLAN:
            return Seen.PLAN
        if seen & Seen.MOVED:
            for index, column, pointers in self._watch.moved():
                table = self.tables[index]
                table.backend.upload(table, Column(column), pointers)
        if seen & Seen.UPDATED:
            self._follow_params(groups)
        if seen & Seen.NO_GRADIENT:
            return Seen.NO_GRADIENT
        if seen & Seen.COPY and not self._copy_grads(groups):
            return Seen.PLAN
        if (self._plain or self._unwatched) and not self._bind_plain(groups, state):
            return Seen.PLAN
        return Seen.SAME

    def _follow_params(self, groups: Groups) -> None:
        self.params = params = [param for _, param in _all(groups)]
        for index, table in enumerate(self.tables):
            table.params = [_versioned(params[row.index]) for row in table.rows]
            table.update_those(self._watch.present(index))
        self.empty_parts = [(group, params[index]) for group, index in self._empty_parts]

    def _copy_grads(self, groups: Groups) -> bool:
        """Copies gradients that do not lie as their parameters; False if one has no memory."""
        params = [param for _, param in _all(groups)]
        self._watch.forget_grads()
        for table in self.tables:
            if not table.backend.fused:
                continue
            bound: list[Tensor | None] = []
            for row in table.rows:
                view = view_of(params[row.index])
                grad = _grad_of(params[row.index], view, row.index)
                if grad is not None and (grad.dtype != view.dtype or not has_memory(grad)):
                    return False
                if grad is not None and not (grad.data_ptr() and same_layout(grad, view)):
                    grad = torch.empty_like(view).copy_(grad)
                bound.append(grad)
            table.bind(bound)
            pointers = [0 if grad is None else grad.data_ptr() for grad in bound]
            table.backend.upload(table, Column.GRAD, pointers)
            table.update_those(pointers)
        return True

    def _bind_plain(self, groups: Groups, state: State) -> bool:
        """Gives the torch backend this step's tensors; False if one belongs elsewhere now."""
        params = [param for _, param in _all(groups)]
        if any(params[index].grad is not None for index in self._unwatched):
            return False
        self._written_back = []
        for table in self._plain:
            belongs = (table.backend, table.device, table.dtype, table.shard, table.group)
            bound = []
            for row in table.rows:
                param = params[row.index]
                view = view_of(param)
                if self._key(table.group, param, view) != belongs or view.numel() != row.numel:
                    return False
                if not self._layout.begun(state.get(param)):
                    return False
                brought = self._layout.bring(param, view, state.setdefault(param, {}))
                row.columns = {Column.PARAM: view, **brought}
                bound.append(_grad_of(param, view, row.index))
                if bound[-1] is not None and (param.is_neg() or param.is_conj()):
                    self._written_back.append((param, view))
            table.bind(bound)
        return True

    def finish(self) -> None:
        """After the update: autograd hears of it, and the gradients are let go."""
        for param, view in self._written_back:
            # a lazy view: what was updated is a copy
            param.detach().copy_(torch.view_as_complex(view) if param.is_complex() else view)
        self._written_back = []
        for table in self.tables:
            if table.backend.fused:
                _bump_versions(table.updated)
            table.release()


def _all(groups: Groups) -> Iterator[tuple[int, Tensor]]:
    """(index of its group, parameter) for every parameter."""
    for index, group in enumerate(groups):
        for param in group["params"]:
            yield index, param


def _numel(param: Tensor) -> int:
    return param.numel() * (2 if param.is_complex() else 1)


def _versioned(param: Tensor) -> Tensor:
    """The tensor whose version autograd compares."""
    if type(param) is torch.nn.Parameter:
        return param
    local: Tensor = getattr(param, "_local_tensor", param)
    return local


def _grad_of(param: Tensor, view: Tensor, index: int) -> Tensor | None:
    """What the backends see of a parameter's gradient."""
    if param.grad is None:
        return None
    refuse_sparse(param.grad, index)
    grad = view_of(shards.grad_part(param.grad, param))
    if grad.shape != view.shape:
        raise RuntimeError(
            f"parameter {index} has shape {tuple(view.shape)}, its gradient "
            f"{tuple(grad.shape)}: it was resized after backward(); call zero_grad() first"
        )
    if grad.device != view.device:
        raise RuntimeError(
            f"parameter {index} of shape {tuple(view.shape)} is on {view.device}, its gradient on "
            f"{grad.device}: it was moved after backward(); call zero_grad() first"
        )
    return grad


def _refuse_twice(params: Sequence[Tensor]) -> None:
    """Two rows of one parameter would update it at the same time."""
    first: dict[int, int] = {}
    for index, param in enumerate(params):
        if first.setdefault(id(param), index) != index:
            raise RuntimeError(
                f"parameter {index} of shape {tuple(param.shape)} is parameter "
                f"{first[id(param)]} again: list it once"
            )


def _takes_lists() -> bool:
    """torch before 2.6 raises the version of one tensor a call."""
    try:
        torch.autograd.graph.increment_version([torch.zeros(0, device="cpu")])
    except Exception:
        return False
    return True


_TAKES_LISTS = _takes_lists()


def _bump_versions(tensors: Iterable[Tensor]) -> None:
    """Tells autograd that these have been written to: kernels write without its knowledge."""
    if _TAKES_LISTS:
        torch.autograd.graph.increment_version(tensors)
        return
    for tensor in tensors:
        torch.autograd.graph.increment_version(tensor)
