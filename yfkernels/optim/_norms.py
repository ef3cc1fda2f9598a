"""Norms of tensors that are split over several processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import ShardGroup


def reduce_norms(
    tables: Sequence[TensorTable], shards: Sequence[ShardGroup], num_params: int
) -> None:
    """Sums `table.norms` over the processes that share the tables' tensors, in place.

    Args:
        tables: the tables of this process; those of tensors that are not split are left unchanged.
        shards: every shard group of the optimizer, in the same order on all processes.
        num_params: number of parameters of the optimizer, including those of which this process
            has no part, so that all processes sum the same entries.
    """
    for shard in shards:
        mine = [table for table in tables if table.shard == shard]
        device = shard.place_for(mine[0].device) if mine else shard.device
        total = torch.zeros(num_params, 2, dtype=torch.float64, device=device)
        for table in mine:
            total[table.indices.to(device)] = table.norms.to(device)
        shard.all_reduce(total)
        for table in mine:
            table.norms.copy_(total[table.indices.to(device)])
