"""The tensor table: every tensor of one backend, device and dtype, described once.

Fused backends read it from two int64 tensors that stay on the device, laid out as csrc/table.h
says: a row a tensor (length, parameter group, position in the model, column addresses) and a list
of chunks. Addresses are looked at in every step (ops/watch.py) and refreshed, a column at a time,
when they did change. A row whose parameter has no gradient in a step holds address 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from yfkernels.ops.constants import COLUMNS, HEAD, MOVE_SUMS, TILE

if TYPE_CHECKING:
    from yfkernels.ops.backend import Backend


class Column(IntEnum):
    """The meaning of a row's columns; csrc/table.h has the same."""

    GRAD = 0
    PARAM = 1
    MASTER = 2  # float32 copy of a half-precision parameter
    STEP = 3  # steps taken: one float32 number a tensor
    AVERAGE = 4  # of the parameter over its steps
    STATE = 5  # the first of the rule's own: momentum_buffer, or exp_avg
    STATE_1 = 6
    STATE_2 = 7
    STATE_3 = 8
    STATE_4 = 9
    STATE_5 = 10

    @classmethod
    def state(cls, k: int) -> Column:
        """The rule's state k, from 0."""
        return _STATES[k]


_STATES = tuple(Column)[Column.STATE :]


@dataclass(frozen=True)
class Granularity:
    """How the work over a table is cut: a function of the model and the kind of device alone.

    A measurement is summed into slots, each a fixed run of chunks, so that sums depend neither on
    the number of threads nor on the model of the GPU.

    Attributes:
        chunk: elements of a chunk; for models with less than one such chunk a slot, fewer.
        slots: places a measurement is summed into, at most.
        slot_numel: elements that are worth a slot of their own.
    """

    chunk: int
    slots: int
    slot_numel: int

    def chunk_size(self, numel: int) -> int:
        """Elements of a chunk, a multiple of TILE."""
        share = max(numel // self.slots, self.slot_numel)
        return min(self.chunk, -(-share // TILE) * TILE)

    def num_slots(self, num_chunks: int, numel: int) -> int:
        """Slots for a table of `num_chunks` chunks."""
        return max(1, min(self.slots, num_chunks, 1 + numel // self.slot_numel))


# CPU: a chunk of four columns fits the second-level cache, 32 slots feed more threads than a memory
# bus does, and a small model is not worth the adding up of many slots. GPU: a chunk is 16 tiles,
# 256 slots fill two blocks on each multiprocessor, and even tiny tensors want blocks of their own.
GRANULARITY = {
    "cpu": Granularity(chunk=65536, slots=32, slot_numel=65536),
    "cuda": Granularity(chunk=65536, slots=256, slot_numel=1),
}


def origin_after(end: int, numel: int) -> int:
    """Where in the model a tensor of `numel` elements begins if the one before ended at `end`.

    The place decides into which buckets of the sketch the tensor's elements fall (their index in
    the model modulo 4096). Large tensors begin at bucket 0, so that a thread meets the same buckets
    in every tile. Small ones follow one another, at the next word of 32 signs: if they all began at
    bucket 0, most buckets would stay empty and the estimate would be poor.
    """
    step = TILE if numel >= TILE else 32
    return -(-end // step) * step


@dataclass
class Row:
    """One tensor of the model.

    Attributes:
        index: position of the parameter among all parameters of the optimizer.
        group: its coefficients' place among those of the table: that of its parameter group.
        origin: index of its first element in the whole model, for the sketch's signs.
        columns: tensors by column, the gradient left out; all dense in the same memory order
            on the fused backends. Those keep them only until the table is in use.
        numel: its elements here, those of a complex tensor twice.
    """

    index: int
    group: int
    origin: int
    columns: dict[Column, Tensor]

    @property
    def param(self) -> Tensor:
        return self.columns[Column.PARAM]

    def __post_init__(self) -> None:
        self.numel = self.param.numel()


def _words(row: Row) -> list[int]:
    pointers = [0] * COLUMNS
    for column, tensor in row.columns.items():
        pointers[column] = tensor.data_ptr()
    return [row.numel, row.group, row.origin, *pointers]


class Reducer(Protocol):
    """The processes over which tensors are split."""

    def all_reduce(self, sums: Tensor) -> None:
        """Adds up `sums` over them, in place."""


class TensorTable:
    """Tensors that share a backend, a device and a dtype.

    Args:
        backend: what will run over the table.
        rows: the tensors; at least one, none of them empty.
        shard: the processes over which these tensors are split; None if they are whole.
        group: the parameter group they are of, if each is tuned for itself; rows then have 0.
    """

    def __init__(
        self,
        backend: Backend,
        rows: Sequence[Row],
        shard: Reducer | None = None,
        group: int = 0,
    ) -> None:
        self.backend = backend
        self.shard = shard
        self.group = group
        self.rows = tuple(rows)
        param = self.rows[0].param
        self.device = param.device
        self.dtype = param.dtype
        self.grads: list[Tensor | None] = []
        granularity = GRANULARITY.get(self.device.type, GRANULARITY["cuda"])
        sizes = [row.numel for row in self.rows]
        self.chunk_size = granularity.chunk_size(sum(sizes))
        counts = [-(-size // self.chunk_size) for size in sizes]
        self.numel = sum(sizes)
        self.num_chunks = sum(counts)
        self.num_slots = granularity.num_slots(self.num_chunks, self.numel) if backend.fused else 1
        self.columns = frozenset(self.rows[0].columns)
        self.params: list[Tensor] = []  # as autograd knows them, one a row
        self.updated: list[Tensor] = []  # those that have a gradient in this step
        # the rows' places among all parameters; made here, as a step must not copy from the host
        self.indices = torch.tensor([row.index for row in self.rows], device="cpu").to(self.device)
        self.norms = torch.zeros(len(self.rows), 2, dtype=torch.float64, device=self.device)
        # a place of its own, until a tuner names one in its state
        self.move_sums = torch.zeros(len(MOVE_SUMS), dtype=torch.float64, device=self.device)
        if backend.fused:
            self._upload(counts)

    def _upload(self, counts: list[int]) -> None:
        device = self.device
        # what a rule that counts steps, adapts to norms or sums its moves needs: tickets of the
        # tensors and of all, up to eight sums a chunk
        self.tickets = torch.zeros(len(self.rows) + 1, dtype=torch.int32, device=device)
        self.chunk_sums = torch.zeros(self.num_chunks, 8, dtype=torch.float64, device=device)
        words = torch.tensor([_words(row) for row in self.rows], dtype=torch.int64, device="cpu")
        count = torch.tensor(counts, device="cpu")
        row_of_chunk = torch.repeat_interleave(torch.arange(len(counts), device="cpu"), count)
        first_chunk = torch.repeat_interleave(count.cumsum(0) - count, count)
        first = (torch.arange(self.num_chunks, device="cpu") - first_chunk) * self.chunk_size
        self.words = words.to(self.device)
        self.chunks = torch.stack([row_of_chunk, first], dim=1).to(self.device)

    def buffers(self) -> list[Tensor]:
        """What was made here and kernels read or write."""
        made = [self.norms, self.move_sums, self.indices]
        if self.backend.fused:
            made += [self.words, self.chunks, self.tickets, self.chunk_sums]
        return made

    def column(self, column: Column) -> Tensor:
        """The addresses of a column inside the table: int64, one a row, strided."""
        return self.words[:, HEAD + column]

    def settle(self) -> None:
        """Lets go of the columns' tensors: from now on they are where the program has them."""
        for row in self.rows:
            row.columns = {}

    def inherit_norms(self, tables: Sequence[TensorTable]) -> None:
        """Takes over what `norms` of these tables say of the same parameters."""
        known = {
            row.index: norms for table in tables for row, norms in zip(table.rows, table.norms)
        }
        for row, norms in zip(self.rows, self.norms):
            if row.index in known:
                norms.copy_(known[row.index])

    def bind(self, grads: list[Tensor | None]) -> None:
        """Takes this step's gradients, one a row, None where there is none."""
        self.grads = grads

    def update_those(self, present: Sequence[int]) -> None:
        """Sorts out who is updated: the parameters whose entry here is not 0."""
        self.updated = self.params
        if not all(present):
            self.updated = [param for param, there in zip(self.params, present) if there]

    def release(self) -> None:
        """Lets go of the gradients, whose memory belongs to the training loop."""
        self.grads = []
