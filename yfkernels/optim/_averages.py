"""The averages that an optimizer keeps, put in the place of the weights and taken out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from yfkernels.optim._planner import params_of
from yfkernels.optim._state import AVERAGE, view_of
from yfkernels.sharding import shards

if TYPE_CHECKING:
    from yfkernels.optim._fused import FusedOptimizer

Loader = Iterable[Any]


def refuse_inside(optimizer: Optimizer) -> None:
    """Raises RuntimeError while an optimizer's averages are in the place of the weights."""
    if getattr(optimizer, "_averages_in_place", False):
        raise RuntimeError(
            f"{type(optimizer).__name__}.step() inside `with averaged():` would train the "
            "averages; leave the block first"
        )


def averages(optimizer: FusedOptimizer) -> dict[Tensor, Tensor]:
    """The average of each parameter that has one.

    Raises:
        RuntimeError: none is kept, no step was taken yet, or a parameter was resized after its
            last step.
    """
    name = type(optimizer).__name__
    if optimizer._layout.average is None:
        raise RuntimeError(
            f"this {name} keeps no averages: construct it with average=yfkernels.WeightAverage()"
        )
    found = {}
    for index, param in enumerate(params_of(optimizer.param_groups)):
        average = optimizer.state.get(param, {}).get(AVERAGE)
        if average is None:
            continue
        if shards.local(average).shape != view_of(param).shape:
            raise RuntimeError(
                f"parameter {index} of shape {tuple(param.shape)} has an average of shape "
                f"{tuple(average.shape)}: it was resized after its last step; take a step first"
            )
        found[param] = average
    if not found:
        raise RuntimeError(f"this {name} has no averages yet: take a step first")
    return found


@torch.no_grad()
def put(values: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Writes values into parameters, each in the parameter's own layout and dtype."""
    for param, value in values:
        here, there = shards.local(param.detach()), shards.local(value)
        if here.is_complex():
            there = torch.view_as_complex(there.to(here.real.dtype))
        here.copy_(there)


def put_for_good(optimizer: FusedOptimizer, model: nn.Module | None, loader: Loader | None) -> None:
    """Writes averages into weights and masters, and a model's new statistics into it."""
    values = averages(optimizer)
    with in_place(optimizer, model, loader), torch.no_grad():
        buffers = [] if model is None else [(b, b.clone()) for b in model.buffers()]
    put(values.items())
    masters = ((optimizer.state[param].get("master"), value) for param, value in values.items())
    put((master, value) for master, value in masters if master is not None)
    put(buffers)


@contextmanager
def in_place(
    optimizer: FusedOptimizer, model: nn.Module | None, loader: Loader | None
) -> Iterator[None]:
    """The weights are the averages inside, and every bit as it was after."""
    values = averages(optimizer)
    with torch.no_grad():
        aside = [(p, shards.local(p.detach()), shards.local(p.detach()).clone()) for p in values]
    try:
        put(values.items())
        with _statistics_anew(model, loader):
            yield
    finally:
        with torch.no_grad():
            for param, before_it, weight in aside:
                # A program may have given the parameter other memory inside, or the optimizer
                # other parameters over the same memory.
                for place in (before_it, shards.local(param.detach())):
                    if place.shape == weight.shape:
                        place.copy_(weight)


@contextmanager
def _statistics_anew(model: nn.Module | None, loader: Loader | None) -> Iterator[None]:
    """BatchNorm's statistics are those of the weights as they are now; as they were after.

    Raises:
        ValueError: the loader has no batch.
    """
    if model is None or loader is None:
        yield
        return
    modules = list(model.modules())
    modes = [module.training for module in modules]
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        try:
            if norms:
                _update(model, loader)
        finally:
            for module, mode in zip(modules, modes):
                module.training = mode
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum
        yield
    finally:
        put(before)


def _update(model: nn.Module, loader: Loader) -> None:
    """update_bn, with the random state put back."""
    device = next((param.device for param in model.parameters()), None)
    batches = 0

    def counted() -> Iterator[Any]:
        nonlocal batches
        for each in loader:
            batches += 1
            yield each

    others = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(others):
        update_bn(counted(), model, device=device)
    if not batches:
        raise ValueError(
            f"Invalid loader value: a {type(loader).__name__} that gave no batch; give one that "
            "can be iterated over each time, such as a list or a DataLoader"
        )


def check_model(model: Any, loader: Any) -> None:
    """Raises TypeError or ValueError unless both or none are given."""
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"Invalid model type: {type(model).__name__}; give a torch.nn.Module")
    if (model is None) != (loader is None):
        given, lacks = ("model", "loader") if loader is None else ("loader", "model")
        raise ValueError(f"Invalid {lacks} value: None; a {given} is given: give both, or none")


def state_dict_of(optimizer: FusedOptimizer, model: nn.Module) -> dict[str, Any]:
    """A copy of the model's state_dict with the averages in the place of the weights.

    Raises:
        ValueError: the model has none of the optimizer's parameters.
    """
    ours = {id(param) for param in averages(optimizer)}
    if not any(id(param) in ours for param in model.parameters()):
        raise ValueError(
            f"Invalid model: {type(model).__name__} has no parameter of this optimizer; give the "
            "model that it trains"
        )
    copies: dict[Any, Tensor] = {}

    def copied(value: Any) -> Any:
        """One copy for all names of a tied weight."""
        if not isinstance(value, Tensor):
            return value
        place = shards.local(value)
        key = (place.data_ptr(), place.shape, place.stride(), place.dtype)
        if key not in copies or not place.numel():
            copies[key] = value.detach().clone()
        return copies[key]

    with torch.inference_mode(False), in_place(optimizer, None, None):
        return {name: copied(value) for name, value in model.state_dict().items()}
