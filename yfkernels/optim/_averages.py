"""The averages that an optimizer keeps, put in the place of the weights and taken out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from yfkernels.optim._planner import params_of
from yfkernels.optim._state import AVERAGE
from yfkernels.sharding import shards

if TYPE_CHECKING:
    from yfkernels.optim._fused import FusedOptimizer


def averages(optimizer: FusedOptimizer) -> dict[Tensor, Tensor]:
    """The average of each parameter that has one.

    Raises:
        RuntimeError: none is kept, or no step was taken yet.
    """
    name = type(optimizer).__name__
    if optimizer._layout.average is None:
        raise RuntimeError(
            f"this {name} keeps no averages: construct it with average=yfkernels.WeightAverage()"
        )
    found = {}
    for param in params_of(optimizer.param_groups):
        average = optimizer.state.get(param, {}).get(AVERAGE)
        if average is not None:
            found[param] = average
    if not found:
        raise RuntimeError(f"this {name} has no averages yet: take a step first")
    return found


@torch.no_grad()
def put(values: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Writes values into parameters, each in the parameter's own layout and dtype."""
    for param, value in values:
        here, there = shards.local(param.detach()), shards.local(value)
        here.copy_(torch.view_as_complex(there) if here.is_complex() else there)


def masters(optimizer: FusedOptimizer) -> Iterator[tuple[Tensor, Tensor]]:
    """(master, average) of every half-precision parameter that has both."""
    for param, average in averages(optimizer).items():
        master = optimizer.state[param].get("master")
        if master is not None:
            yield master, average


@contextmanager
def in_place(
    optimizer: FusedOptimizer, model: nn.Module | None, loader: Iterable[Any] | None
) -> Iterator[None]:
    """The weights are the averages inside, and every bit as it was after."""
    values = averages(optimizer)
    # the tensors that were changed, also if a program gives the parameters others inside
    params = [param.detach() for param in values]
    with torch.no_grad():
        aside = [(param, shards.local(param).clone()) for param in params]
    try:
        put(zip(params, values.values()))
        with statistics_of(model, loader):
            yield
    finally:
        with torch.no_grad():
            for param, before in aside:
                shards.local(param).copy_(before)


@contextmanager
def statistics_of(model: nn.Module | None, loader: Iterable[Any] | None) -> Iterator[None]:
    """BatchNorm's statistics are those of the weights as they are now; as they were after."""
    if model is None or loader is None:
        yield
        return
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    with torch.no_grad():
        before = [buffer.clone() for buffer in buffers]
    try:
        update_bn(loader, model)
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before):
                buffer.copy_(value)


@torch.no_grad()
def state_dict_of(optimizer: FusedOptimizer, model: nn.Module) -> dict[str, Any]:
    """The model's state_dict with copies of the averages in the place of the weights.

    Raises:
        ValueError: none of the optimizer's parameters is in the model's state_dict.
    """
    values = averages(optimizer)
    copies = {
        id(param): _like(param, average) for param, average in values.items()
    }  # one for all names of a tied weight
    state = model.state_dict(keep_vars=True)
    if not any(id(value) in copies for value in state.values()):
        raise ValueError(
            f"Invalid model: no parameter of this optimizer is in the state_dict of "
            f"{type(model).__name__}; if a wrapper gathers it, as FullyShardedDataParallel does, "
            "call model.state_dict() inside `with optimizer.averaged():`"
        )
    for name, value in state.items():
        if isinstance(value, Tensor):
            state[name] = copies.get(id(value), value.detach())
    return state


def _like(param: Tensor, average: Tensor) -> Tensor:
    """A copy of the average as the parameter would hold it."""
    copy = torch.empty_like(param)
    put([(copy, average)])
    return copy
