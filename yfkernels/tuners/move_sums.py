"""Sums of the move, from the tables where updates leave them into the tuner's state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yfkernels.ops.constants import MOVE_SUMS
from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import ShardGroup, Sharding


class MoveSums:
    """Brings the sums of every table's update to one place, straight after the update.

    A single table, on that device and of whole tensors, is told to write there itself. Where there
    are more, or shards of them, each has a place of its own, and `collect` adds them up.

    Args:
        tables: every table of the optimizer on this process.
        sharding: the processes that share the parameters.
        unread: where the sums have to be: MOVE_SUMS, float64.
        active: where every step writes whether it counts, as a number.
    """

    def __init__(
        self,
        tables: Sequence[TensorTable],
        sharding: Sharding,
        unread: Tensor,
        active: Tensor,
    ) -> None:
        self._tables = list(tables)
        self._sharding = sharding
        self._unread = unread
        self._active = active
        self._direct = len(tables) == 1 and not sharding and tables[0].device == unread.device
        if self._direct:
            tables[0].move_sums = unread

    def collect(self) -> None:
        """Adds up what this step's update has left; all processes that share parameters take part.

        A step that did not count changes nothing. On CUDA devices asynchronous, and legal under
        graph capture.
        """
        if self._direct:
            return
        total = self._sharding.total(self._sum, self._unread.device)
        active = self._active.to(total.device, non_blocking=True) != 0.0
        torch.where(active, total, self._unread, out=self._unread)

    def _sum(self, shard: ShardGroup | None, device: torch.device) -> Tensor:
        """Of all tables split over `shard`, one after the other, on `device`."""
        total = torch.zeros(len(MOVE_SUMS), dtype=torch.float64, device=device)
        for table in self._tables:
            if table.shard == shard:
                total += table.move_sums.to(device)
        return total
