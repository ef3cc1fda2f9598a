"""Sharded parameters (DTensor, FSDP2): the local part of a tensor, and sums over the shards.

Only sums of squares and products cross the network, so one small all-reduce a step is all it takes.
Recognised by their attributes: importing torch.distributed.tensor costs every user a good part of
a second, and builds of torch without it exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def is_dtensor(tensor: Any) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(tensor, "placements") and hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """This process's part of a tensor: itself, unless it is a DTensor."""
    part: Any = tensor.to_local() if is_dtensor(tensor) else tensor
    here: Tensor = part.wait() if hasattr(part, "trigger_wait") else part  # still on its way
    return here


def grad_part(grad: Any, param: Any) -> Tensor:
    """This process's part of a gradient, split as its parameter is; partial sums are added up."""
    if is_dtensor(grad) and grad.placements != param.placements:
        grad = grad.redistribute(param.device_mesh, param.placements)
    return local(grad)


@dataclass(frozen=True)
class ShardGroup:
    """The processes over which some parameters are split.

    Attributes:
        groups: the process groups to sum over, one for each dimension of a mesh along which the
            parameters are split; along the others they are replicated, and nothing is summed.
        device: where this process's end of the network takes tensors.
    """

    groups: tuple[Any, ...]
    device: torch.device

    def all_reduce(self, sums: Tensor) -> None:
        """Adds up `sums` over the shards, in place."""
        for group in self.groups:
            torch.distributed.all_reduce(sums, group=group)


@dataclass(frozen=True)
class Sharding:
    """All groups of processes over which an optimizer's sums go; the same on all of them.

    Attributes:
        shards: over which tensors are split.
        between: the processes that have other tensors, each of them whole.
    """

    shards: tuple[ShardGroup, ...] = ()
    between: ShardGroup | None = None

    def __bool__(self) -> bool:
        return bool(self.shards) or self.between is not None

    def total(
        self, part: Callable[[ShardGroup | None, torch.device], Tensor], device: torch.device
    ) -> Tensor:
        """A sum over all processes, on `device`; every process has to ask for it.

        Args:
            part: this process's sum over the tensors that are split over a shard group, or over
                those that are not split for None; a new tensor on the device asked for.
            device: where the sum is wanted.
        """
        total = part(None, device)
        for shard in self.shards:
            sums = part(shard, shard.device)
            shard.all_reduce(sums)
            total += sums.to(device)
        if self.between is not None:
            sums = total.to(self.between.device)
            self.between.all_reduce(sums)
            total = sums.to(device)
        return total


def mesh_shard_group(tensor: Any) -> ShardGroup | None:
    """Where the parts of a DTensor are; None for one that every process has whole.

    Raises:
        RuntimeError: it holds partial sums.
    """
    placements = tensor.placements
    if any(placement.is_partial() for placement in placements):
        raise RuntimeError(
            f"a parameter of shape {tuple(tensor.shape)} is a DTensor with placements "
            f"{tuple(placements)}: redistribute its partial sums before the optimizer sees it"
        )
    mesh = tensor.device_mesh
    dims = [dim for dim, placement in enumerate(placements) if placement.is_shard()]
    if not dims:
        return None
    return ShardGroup(tuple(map(mesh.get_group, dims)), torch.device(mesh.device_type))


def shard_offset(tensor: Any) -> int:
    """Index, in the whole tensor, of the first element this process has.

    Exact for a split along the first dimension, where the elements of a shard are consecutive;
    for other splits any place that no other shard starts from will do.
    """
    if not is_dtensor(tensor):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    strides = [math.prod(tensor.shape[dim + 1 :]) for dim in range(tensor.dim())]
    return sum(start * stride for start, stride in zip(offset, strides))


def like(param: Any, part: Tensor) -> Tensor:
    """`part`, a state tensor of this process's part of `param`, in the parameter's own form."""
    if not is_dtensor(param):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        param.device_mesh,
        param.placements,
        run_check=False,
        shape=param.shape,
        stride=param.stride(),
    )


def part_of(value: Any, param: Any) -> Tensor:
    """This process's part of a state tensor, split as `param` is, however it was split before."""
    if not is_dtensor(param):
        whole: Tensor = value.full_tensor() if is_dtensor(value) else value
        return whole
    mesh, placements = param.device_mesh, param.placements
    if is_dtensor(value):
        if value.placements != placements or value.device_mesh != mesh:
            value = value.redistribute(mesh, placements)
        return local(value)
    if value.shape != param.shape and value.shape == local(param).shape:
        return local(value)
    from torch.distributed.tensor import distribute_tensor

    return local(distribute_tensor(value, mesh, placements, src_data_rank=None))
