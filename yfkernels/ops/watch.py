"""Whether everything that the tensor tables point at is still where it was.

An address is trusted only while it is checked. Programs replace state, offload it, swap parameters
and assign to `.data`; so every step looks at the live parameters, gradients and states.
csrc/watch.h does it without a Python object a tensor, where torch offers DLPack's exchange API
(from 2.10 on); this is the same walk in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from yfkernels.ops.constants import COLUMNS
from yfkernels.ops.table import Column, TensorTable


class Seen:
    """What a look has found, or'ed; plain numbers, as enumerations cost every step microseconds."""

    SAME = 0
    MOVED = 1  # addresses that the tables do not have yet: see moved()
    COPY = 2  # some gradient lies otherwise than its parameter, or is a lazy view
    PLAN = 4  # the tables do not describe the optimizer any more
    NO_GRADIENT = 8  # no parameter has one
    UPDATED = 16  # other parameters, or others that have a gradient: see present()


class Place(IntEnum):
    """Where the tables have a parameter."""

    TABLE = 0  # a row of a fused table
    NOWHERE = 1  # it has not had a gradient yet
    EMPTY = 2  # no element of it is here
    PLAIN = 3  # on the torch backend, which takes tensors and no addresses


class Stored(NamedTuple):
    """One state of a parameter: its name, its column, the tensor here, whether a shard of it."""

    name: str
    column: Column
    tensor: Tensor
    sharded: bool


class Entry(NamedTuple):
    """A parameter as the tables were made for it; `param` is its local part if it is sharded."""

    place: Place
    table: int
    row: int
    param: Tensor
    sharded: bool
    states: list[Stored]


class Watch(Protocol):
    """Compares the live optimizer with what its tables were made for."""

    def look(self, groups: list[dict[str, Any]], state: dict[Any, Any]) -> int:
        """What has changed since the last look: `Seen`, or'ed."""

    def moved(self) -> list[tuple[int, int, list[int]]]:
        """(table, column, addresses) that the last look has found moved and not written itself."""

    def present(self, table: int) -> list[int]:
        """The gradients' addresses in a table, 0 where there is none."""

    def forget_grads(self) -> None:
        """Has the gradients' addresses reported again: copies have stood in for them."""

    def forget(self) -> None:
        """Has all addresses reported again: nobody knows what the tables on the device hold."""


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own: a wrapper subclass or a meta tensor has none."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return False
    if type(tensor) in (Tensor, torch.nn.Parameter) or not tensor.numel():
        return True
    try:
        return tensor.data_ptr() != 0
    except RuntimeError:
        return False


def addressable(tensor: Tensor) -> bool:
    """Whether a tensor's values lie in memory: that of a lazy view holds their negatives."""
    return has_memory(tensor) and not tensor.is_neg() and not tensor.is_conj()


class _Form(NamedTuple):
    """How a tensor lies; strides of dimensions of one element say nothing."""

    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Form:
        sizes = tensor.shape
        strides = tuple(0 if n == 1 else step for n, step in zip(sizes, tensor.stride()))
        return cls(tensor.dtype, tensor.device, sizes, strides)


def _here(tensor: Any, sharded: bool) -> Any:
    return getattr(tensor, "_local_tensor", None) if sharded else tensor


class PythonWatch:
    """The walk in Python; arguments as those of `ops.watch_over`."""

    def __init__(
        self, tables: Sequence[TensorTable], sizes: Sequence[int], entries: Sequence[Entry]
    ) -> None:
        self._sizes = list(sizes)
        self._entries = entries
        self._params = [None if e.place == Place.PLAIN else _Form.of(e.param) for e in entries]
        self._states = [[_Form.of(stored.tensor) for stored in e.states] for e in entries]
        self._addresses = [[[0] * len(t.rows) for _ in range(COLUMNS)] for t in tables]
        self._objects: list[int] = [0] * len(entries)
        for entry in entries:
            if entry.place == Place.TABLE:
                columns = self._addresses[entry.table]
                columns[Column.PARAM][entry.row] = entry.param.data_ptr()
                for stored in entry.states:
                    columns[stored.column][entry.row] = stored.tensor.data_ptr()
        # what was compared needs no tensor any more: their memory is the program's
        self._entries = [
            e._replace(param=None, states=[s._replace(tensor=None) for s in e.states])  # type: ignore[arg-type]
            for e in entries
        ]
        self._moved: dict[tuple[int, int], None] = {}

    def look(self, groups: list[dict[str, Any]], state: dict[Any, Any]) -> int:
        self._moved = {}
        params = [param for group in groups for param in group["params"]]
        if [len(group["params"]) for group in groups] != self._sizes:
            return Seen.PLAN
        seen, any_gradient = Seen.SAME, False
        for index, param in enumerate(params):
            any_gradient |= param.grad is not None
            seen |= self._look_at(index, param, state)
            if seen & Seen.PLAN:
                break
        return seen if any_gradient else seen | Seen.NO_GRADIENT

    def _look_at(self, index: int, param: Tensor, states: Mapping[Any, Any]) -> int:
        entry, form, grad = self._entries[index], self._params[index], param.grad
        if form is None:
            return Seen.SAME
        here = _here(param, entry.sharded)
        if here is None or not addressable(here) or _Form.of(here) != form:
            return Seen.PLAN
        if entry.place == Place.NOWHERE:
            return Seen.SAME if grad is None else Seen.PLAN
        empty, seen = entry.place == Place.EMPTY, Seen.SAME
        if not empty:
            seen = self._put(entry, Column.PARAM, here.data_ptr())
        if self._objects[index] != id(param):
            self._objects[index] = id(param)
            seen |= Seen.UPDATED
        state = states.get(param, {})
        for stored, expected in zip(entry.states, self._states[index]):
            value = _here(state.get(stored.name), stored.sharded)
            if not isinstance(value, Tensor) or not addressable(value):
                return Seen.PLAN
            if _Form.of(value) != expected:
                return Seen.PLAN
            if not empty:
                seen |= self._put(entry, stored.column, value.data_ptr())
        if empty:
            return seen
        if grad is None:
            return seen | self._put(entry, Column.GRAD, 0)
        if grad.dtype != form.dtype:
            return Seen.PLAN
        if entry.sharded and getattr(grad, "placements", None) != param.placements:  # type: ignore[attr-defined]
            return seen | Seen.COPY
        grad = _here(grad, entry.sharded)
        address = 0 if grad is None or not addressable(grad) else grad.data_ptr()
        if not address or _Form.of(grad) != form:
            return seen | Seen.COPY
        return seen | self._put(entry, Column.GRAD, address)

    def _put(self, entry: Entry, column: Column, address: int) -> int:
        known = self._addresses[entry.table][column]
        if known[entry.row] == address:
            return Seen.SAME
        appeared = column == Column.GRAD and (known[entry.row] in (0, -1) or address == 0)
        known[entry.row] = address
        self._moved[entry.table, column] = None
        return Seen.MOVED | (Seen.UPDATED if appeared else 0)

    def moved(self) -> list[tuple[int, int, list[int]]]:
        return [(t, column, list(self._addresses[t][column])) for t, column in self._moved]

    def present(self, table: int) -> list[int]:
        return self._addresses[table][Column.GRAD]

    def forget_grads(self) -> None:
        for columns in self._addresses:
            columns[Column.GRAD] = [-1] * len(columns[Column.GRAD])

    def forget(self) -> None:
        for columns in self._addresses:
            for column in columns:
                column[:] = [-1] * len(column)
