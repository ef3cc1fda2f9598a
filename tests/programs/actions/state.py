"""What programs do to `optimizer.state`: offload it, replace it, delete it."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from programs.gradients import give_gradients
from programs.registry import action, one_of
from programs.side import FIRST_STATES, Side, claim
from support.cases import CANARY, lay_out
from torch import Tensor

from yfkernels.ops import float8

Form = Callable[[Tensor], Tensor]


def _entries(side: Side) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """(state of a parameter, name, tensor) for all that is there."""
    for p in side.params:
        state = side.optimizer.state.get(p) or {}
        for name, value in list(state.items()):
            if isinstance(value, Tensor):
                yield state, name, value


def _flat(value: Tensor) -> Tensor:
    """A part of a large buffer, as offloading engines keep it."""
    return lay_out(value, "offset")[0]


FORMS: tuple[Form, ...] = (
    Tensor.clone,
    _flat,
    lambda v: lay_out(v, "strided")[0],
    lambda v: lay_out(v, "transposed")[0] if v.dim() > 1 else v.clone(),
    lambda v: v.clone(memory_format=torch.contiguous_format),
    lambda v: v.to(torch.float64 if v.is_floating_point() else torch.float32, copy=True),
)


@action(3.0, neutral=True)
def return_state(side: Side, rng: np.random.Generator) -> None:
    """Offloaded and brought back: other tensors of the same values."""
    form = FORMS[one_of(rng, len(FORMS) if side.ours else 2)]
    for state, name, value in _entries(side):
        state[name] = form(value)
        side.leave(value, rng)


@action(3.0, neutral=True)
def return_data(side: Side, rng: np.random.Generator) -> None:
    """The same tensors, their memory elsewhere."""
    for _, _, value in _entries(side):
        old = value.data
        value.data = (_flat if one_of(rng, 2) else Tensor.clone)(value)
        side.leave(old, rng)


@action(2.0, neutral=True)
def return_storage(side: Side, rng: np.random.Generator) -> None:
    """The same tensors and storages, freed and allocated again, as FSDP's offloading does."""
    for _, _, value in _entries(side):
        storage = value.untyped_storage()
        size, kept = storage.nbytes(), value.clone()
        alone = value.storage_offset() == 0 and size == value.numel() * value.element_size()
        if size and alone and storage.resizable():
            storage.resize_(0)
            side.canaries.append(torch.full((value.numel(),), CANARY))
            storage.resize_(size)
            value.copy_(kept)


@action(2.0, neutral=True)
def return_dicts(side: Side, rng: np.random.Generator) -> None:
    """New dicts of new tensors, as Lightning moves an optimizer's state."""
    for p in side.params:
        if p in side.optimizer.state:
            entry = side.optimizer.state[p]
            side.optimizer.state[p] = {
                k: v.clone() if isinstance(v, Tensor) else v for k, v in entry.items()
            }
            for value in entry.values():
                if isinstance(value, Tensor):
                    side.leave(value, rng)


@action(neutral=True)
def return_whole_state(side: Side, rng: np.random.Generator) -> None:
    """A new mapping, its entries in another order."""
    state: defaultdict[Any, Any] = defaultdict(dict)
    for p in reversed(list(side.optimizer.state)):
        state[p] = dict(reversed(list(side.optimizer.state[p].items())))
    side.optimizer.state = state


@action(neutral=True, loads=True)
def keep_something(side: Side, rng: np.random.Generator) -> None:
    """A program's own entries beside the optimizer's come through saving and loading."""
    params = side.params
    index = one_of(rng, len(params))
    if not side.optimizer.state.get(params[index]) and not side.ours:
        return  # torch's Adam takes a parameter that has any state for one that has its own
    slow = torch.arange(3.0).to(params[index].dtype)
    side.optimizer.state[params[index]]["user_slow"] = slow
    side.optimizer.state[params[index]]["user_count"] = 7
    side.optimizer.load_state_dict(copy.deepcopy(side.optimizer.state_dict()))
    held = side.optimizer.state[side.params[index]]
    claim(held.get("user_count") == 7, "a number in the state was lost", repr(held.keys()))
    kept = held.get("user_slow")
    ok = isinstance(kept, Tensor) and torch.equal(kept.to(slow.dtype), slow)
    claim(ok, "a tensor in the state was lost", repr(kept))


@action(neutral=True, ours=True)
def count_in_numbers(side: Side, rng: np.random.Generator) -> None:
    """Step counts that are no tensors."""
    for state, name, value in _entries(side):
        if name == "step":
            state[name] = float(value)


@action()
def begin_state_anew(side: Side, rng: np.random.Generator) -> None:
    if one_of(rng, 2):
        side.optimizer.state = defaultdict(dict)
    else:
        side.optimizer.state.clear()


@action(2.0)
def delete_state(side: Side, rng: np.random.Generator) -> None:
    params = side.params
    p = params[one_of(rng, len(params))]
    if one_of(rng, 2) and p in side.optimizer.state:
        del side.optimizer.state[p]
    else:
        side.optimizer.state.pop(p, None)


def _times(name: str, value: Tensor, factor: float) -> Tensor:
    if name == "momentum_codes":  # which a wrapper may have cast
        return float8.nearest(float8.numbers(value.to(torch.uint8)) * factor).to(value.dtype)
    return value * factor


@action(2.0)
def change_momentum(side: Side, rng: np.random.Generator) -> None:
    """Zeroed or halved, in place or by another tensor."""
    params = side.params
    p = params[one_of(rng, len(params))]
    factor, way = (0.0, 0.5)[one_of(rng, 2)], one_of(rng, 3)
    state = side.optimizer.state.get(p, {})
    for name in FIRST_STATES:
        value = state.get(name)
        if isinstance(value, Tensor):
            scaled = _times(name, value, factor)
            if way == 0 and 0 not in value.stride():
                value.copy_(scaled)
            elif way <= 1:
                state[name] = scaled
            else:
                value.data = scaled


@action()
def momentum_of_one_number(side: Side, rng: np.random.Generator) -> None:
    """Zeros that take the memory of one."""
    params = side.params
    p = params[one_of(rng, len(params))]
    state = side.optimizer.state.get(p, {})
    for name in FIRST_STATES:
        if isinstance(value := state.get(name), Tensor):
            zero = torch.zeros((), dtype=value.dtype)
            state[name] = zero.expand(value.shape) if side.ours else torch.zeros_like(value)


@action(needs="lose")
def lose_momentum(side: Side, rng: np.random.Generator) -> None:
    """A part of a state is deleted; the next step begins it anew."""
    params = side.params
    p = params[one_of(rng, len(params))]
    state = side.optimizer.state.get(p, {})
    for name in FIRST_STATES:
        state.pop(name, None)
    give_gradients(side, rng, density=1.0)
    side.step()


@action()
def exchange_momentum(side: Side, rng: np.random.Generator) -> None:
    """Two parameters of one shape: each goes on with the other's."""
    params = side.params
    p = params[one_of(rng, len(params))]
    for q in params:
        mine, other = side.optimizer.state.get(p), side.optimizer.state.get(q)
        alike = p.shape == q.shape and p.dtype == q.dtype and p.stride() == q.stride()
        if q is not p and alike and mine and other:
            for name in FIRST_STATES:
                if isinstance(mine.get(name), Tensor) and isinstance(other.get(name), Tensor):
                    mine[name], other[name] = other[name], mine[name]
            return


@action()
def reset(side: Side, rng: np.random.Generator) -> None:
    """Everything from the beginning: statistics and state."""
    if hasattr(side.optimizer, "reset"):
        side.optimizer.reset()
    else:
        side.optimizer.state.clear()
