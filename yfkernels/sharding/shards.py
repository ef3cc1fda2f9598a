"""Sharded parameters (DTensor, FSDP2): the local part of a tensor, and sums over the shards.

Only sums of squares and products cross the network, so one small all-reduce per step is enough.
DTensors are recognized by their attributes: importing torch.distributed.tensor would cost every
user a good part of a second, and there are builds of torch without it.
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
    here: Tensor = part.wait() if hasattr(part, "trigger_wait") else part  # may still be in transit
    return here


def grad_part(grad: Any, param: Any) -> Tensor:
    """This process's part of a gradient, split as its parameter is; partial sums are reduced."""
    if is_dtensor(grad) and grad.placements != param.placements:
        grad = grad.redistribute(param.device_mesh, param.placements)
    return local(grad)


@dataclass(frozen=True)
class ShardGroup:
    """The processes over which some parameters are split.

    Attributes:
        groups: the process groups to sum over, one for each dimension of a mesh along which the
            parameters are split; along the others they are replicated, and nothing is summed.
        device: the device on which collectives of these groups take tensors.
    """

    groups: tuple[Any, ...]
    device: torch.device

    def all_reduce(self, sums: Tensor) -> None:
        """All-reduces `sums` over the shards, in place."""
        for group in self.groups:
            torch.distributed.all_reduce(sums, group=group)

    def place_for(self, device: torch.device) -> torch.device:
        """Where sums that are made on `device` are reduced: there, if the network takes them.

        "cuda" alone would be the current device, which may be another process's.
        """
        return device if device.type == self.device.type else self.device


@dataclass(frozen=True)
class Sharding:
    """All groups of processes that an optimizer's sums are taken over; the same on every process.

    Attributes:
        shards: the groups over which tensors are split.
        between: the processes that hold other tensors, none of which is split.
    """

    shards: tuple[ShardGroup, ...] = ()
    between: ShardGroup | None = None

    def __bool__(self) -> bool:
        return bool(self.shards) or self.between is not None

    def total(
        self, part: Callable[[ShardGroup | None, torch.device], Tensor], device: torch.device
    ) -> Tensor:
        """A sum over all processes, on `device`; every process must call this.

        Args:
            part: returns this process's sum over the tensors that are split over a shard group, or,
                for None, over those that are not split; as a new tensor on the given device.
            device: the device of the result.
        """
        total = part(None, device)
        for shard in self.shards:
            sums = part(shard, shard.place_for(device))
            shard.all_reduce(sums)
            total += sums.to(device)
        if self.between is not None:
            sums = total.to(self.between.place_for(device))
            self.between.all_reduce(sums)
            total = sums.to(device)
        return total


def mesh_shard_group(tensor: Any) -> ShardGroup | None:
    """The processes that hold the parts of a DTensor; None if every process has all of it.

    Raises:
        RuntimeError: the tensor holds partial sums.
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
    """The index, in the whole tensor, of this process's first element.

    Exact for a split along the first dimension, where the elements of a shard are consecutive. For
    other splits, any index that no other shard starts from is good enough.
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
    """`part`, a state tensor for this process's part of `param`, as a DTensor if `param` is one."""
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
