"""Models that are split over processes in ways that the parameters themselves do not show.

DTensors know where their parts are (shards.py). FSDP 1's flat parameters, the local optimizers of
ZeroRedundancyOptimizer and the stages of a pipeline hold plain tensors: without the group, every
process would tune from its own gradients alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yfkernels.sharding.shards import ShardGroup, is_dtensor, mesh_shard_group

_STRIDE = 1 << 36  # elements: no process has more


def is_flat(param: Tensor) -> bool:
    """Whether it is a flat parameter of FullyShardedDataParallel, or a view into one."""
    return getattr(param, "_is_flat_param", False) or getattr(param, "_fsdp_flattened", False)


def zero_redundancy_group() -> Any:
    """The group of the ZeroRedundancyOptimizer that is constructing its local optimizer, if any.

    It passes its local optimizer a part of the parameters and nothing else, and has an argument
    `process_group` of its own, so the group can only be found on the call stack.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    frame = None if module is None else sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_init_local_optimizer":
            owner = frame.f_locals.get("self")
            if isinstance(owner, module.ZeroRedundancyOptimizer):  # type: ignore[union-attr]
                return owner.process_group
        frame = frame.f_back
    return None


_WHICH_GROUP = (
    "the parameters are those of FullyShardedDataParallel, of which each process has a part, and "
    "this step needs sums over all parts: construct the optimizer with "
    "process_group=model.process_group, or with process_group=torch.distributed.group.WORLD if a "
    "framework wraps the model later"
)


@dataclass(frozen=True)
class _UnknownGroup(ShardGroup):
    """Parts that can be updated as long as no sum over them is needed."""

    def all_reduce(self, sums: Tensor) -> None:
        raise RuntimeError(_WHICH_GROUP)


@dataclass(frozen=True)
class Division:
    """How a model is split over processes, beyond what its parameters show.

    Attributes:
        group: a ProcessGroup; None for one process, or replicas of the whole model.

    Raises:
        TypeError: the group is something else.
    """

    group: Any = None

    def __post_init__(self) -> None:
        if self.group is None:
            return
        if not isinstance(self.group, torch.distributed.ProcessGroup):
            raise TypeError(
                f"Invalid process_group type: {type(self.group).__name__}; give a "
                "torch.distributed.ProcessGroup, such as FullyShardedDataParallel's process_group"
            )

    @property
    def everywhere(self) -> bool:
        """Whether all processes take part in every step, even those without a gradient."""
        return self.group is not None

    @property
    def origin(self) -> int:
        """The index, in the whole model, that this process counts its elements from."""
        return 0 if self.group is None else torch.distributed.get_rank(self.group) * _STRIDE

    def shard_group(self, param: Tensor) -> ShardGroup | None:
        """The processes over which a parameter is split."""
        if is_dtensor(param):
            return mesh_shard_group(param)
        if self.group is not None and is_flat(param):
            return ShardGroup((self.group,), _device(param.device))
        return _UnknownGroup((), _device(param.device)) if self._unknown(param) else None

    def require_group(self, params: Iterable[Tensor]) -> None:
        """Raises RuntimeError if parameters are split over processes that nothing names."""
        if any(map(self._unknown, params)):
            raise RuntimeError(_WHICH_GROUP)

    def _unknown(self, param: Tensor) -> bool:
        if self.group is not None or not is_flat(param):
            return False
        return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1

    def between(self, params: Iterable[Tensor], device: torch.device) -> ShardGroup | None:
        """The processes that hold other parameters, none of which is split."""
        if self.group is None or any(map(is_flat, params)):
            return None
        return ShardGroup((self.group,), _device(device))

    def __deepcopy__(self, memo: dict[int, Any]) -> Division:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.group is not None:
            raise TypeError(
                "an optimizer with a process_group cannot be pickled, because the group cannot; "
                "save its state_dict()"
            )
        return Division, ()


def _device(device: torch.device) -> torch.device:
    """Where sums over a group of such parameters are taken."""
    return torch.device(device.type)
