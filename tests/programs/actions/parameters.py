"""What happens to parameters between two steps."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from programs.notation import numbers
from programs.registry import action, one_of
from programs.side import Side, clone, like
from support.cases import lay_out
from torch import Tensor, nn
from torch.nn import Parameter


def _replace(side: Side, old: Parameter, new: Parameter) -> None:
    """Another object in the group's list."""
    for group in side.optimizer.param_groups:
        group["params"][:] = [new if p is old else p for p in group["params"]]


def _pick(side: Side, rng: np.random.Generator) -> Parameter:
    params = side.params
    return params[one_of(rng, len(params))]


class _Holder(nn.Module):
    """A module of a side's parameters."""

    def __init__(self, params: list[Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterList(params)


@action(2.0, neutral=True)
def move_data(side: Side, rng: np.random.Generator) -> None:
    """The same values elsewhere; what was there is freed."""
    for p in side.params:
        old = p.data
        p.data = clone(old)
        side.leave(old, rng)


@action(2.0, neutral=True)
def move_into_one_buffer(side: Side, rng: np.random.Generator) -> None:
    """Parameters of one dtype become views of one buffer, at any address."""
    offset = one_of(rng, 4)
    for dtype in {p.dtype for p in side.params}:
        same = [p for p in side.params if p.dtype == dtype and p.is_contiguous()]
        flat = torch.zeros(offset + sum(p.numel() for p in same), dtype=dtype)
        end = offset
        for p in same:
            part = flat[end : end + p.numel()].view(p.shape)
            end += p.numel()
            old = p.data
            p.data = part.copy_(old)
            side.leave(old, rng)


@action(neutral=True)
def move_storage(side: Side, rng: np.random.Generator) -> None:
    """The storage is freed and filled again, as FSDP does between steps."""
    for p in side.params:
        storage = p.untyped_storage()
        size, kept = storage.nbytes(), p.detach().clone()
        alone = p.storage_offset() == 0 and size == p.numel() * p.element_size()
        if size and alone and storage.resizable():
            storage.resize_(0)
            side.canaries.append(torch.full((p.numel(),), 77.0))
            storage.resize_(size)
            with torch.no_grad():
                p.copy_(kept)


@action(2.0, neutral=True)
def other_object(side: Side, rng: np.random.Generator) -> None:
    """A new Parameter of the same values in the group's list, with the old one's state."""
    old = _pick(side, rng)
    new = like(old)
    new.grad, old.grad = old.grad, None
    _replace(side, old, new)
    if old in side.optimizer.state:
        side.optimizer.state[new] = side.optimizer.state.pop(old)
    side.leave(old, rng)


@action(neutral=True)
def swap_contents(side: Side, rng: np.random.Generator) -> None:
    """torch.utils.swap_tensors: the object stays, what is in it does not."""
    p = _pick(side, rng)
    new = like(p)
    new.grad = None if p.grad is None else p.grad.detach().clone()
    torch.utils.swap_tensors(p, new)
    side.leave(new, rng)


@action(neutral=True)
def convert_to_the_same(side: Side, rng: np.random.Generator) -> None:
    """module.to() of what it is already, and a way to float64 and back."""
    swap, there_and_back = one_of(rng, 2), one_of(rng, 2)
    holder = _Holder(side.params)
    plain = all(p.dtype == torch.float32 and _has_no_holes(p) for p in side.params)
    if plain and there_and_back:
        _convert(holder, torch.float64, bool(swap))
        _convert(holder, torch.float32, bool(swap))
    else:
        holder.to("cpu")
    _replace_all(side, list(holder.held))


@action(2.0, needs="convert")
def convert(side: Side, rng: np.random.Generator) -> None:
    """module.to(dtype), by any way that a program has to it."""
    dtypes = (torch.bfloat16, torch.float16, torch.float64, torch.float32, torch.float32)
    dtype, way = dtypes[one_of(rng, len(dtypes))], one_of(rng, 3)
    if way == 2 or not side.subject:
        for p in side.params:
            if not p.is_complex():
                p.data = p.data.to(dtype)
                if p.grad is not None:
                    p.grad = p.grad.detach().to(dtype)
    else:
        holder = _Holder(side.params)
        _convert(holder, dtype, bool(way))
        _replace_all(side, list(holder.held))


@action(needs="convert")
def convert_one(side: Side, rng: np.random.Generator) -> None:
    p = _pick(side, rng)
    dtypes = (torch.bfloat16, torch.float64, torch.float32)
    dtype = dtypes[one_of(rng, len(dtypes))]
    if not p.is_complex():
        p.grad = None
        p.data = p.data.to(dtype)


@action(2.0)
def other_layout(side: Side, rng: np.random.Generator) -> None:
    """Row-major, transposed, channels-last, or with holes."""
    p = _pick(side, rng)
    layouts = ["contiguous", "offset"]
    if p.dim() > 1:
        layouts.append("transposed")
    if p.dim() == 4:
        layouts.append("channels_last")
    p.data = lay_out(p.detach(), layouts[one_of(rng, len(layouts))])[0]


@action()
def with_holes(side: Side, rng: np.random.Generator) -> None:
    p = _pick(side, rng)
    view, base = lay_out(p.detach(), "strided")
    p.data = view
    side.guards.append((base[..., 0], None))


@action(2.0)
def edit(side: Side, rng: np.random.Generator) -> None:
    """Parameters are written to by somebody else.

    Not before a tuner's first step: a side may set itself up again until then, and would see other
    parameters to begin with.
    """
    if side.tunes_from_here:
        return
    with torch.no_grad():
        for p in side.params:
            p.mul_(0.875)


@action(2.0)
def resize(side: Side, rng: np.random.Generator) -> None:
    """Another shape, with its state deleted."""
    p = _pick(side, rng)
    shapes = ((), (5,), (17,), (3, 5), (4, 6), (0, 4), (1025,))
    shape = shapes[one_of(rng, len(shapes))]
    p.grad = None
    if one_of(rng, 2) and p.dim():
        p.data = p.detach()[: len(p) // 2 + 1]  # at the same place
    else:
        p.data = numbers(rng, torch.empty(shape, dtype=p.dtype)).to(p.dtype)
    side.optimizer.state.pop(p, None)


@action(2.0)
def grow(side: Side, rng: np.random.Generator) -> None:
    """Rows are added to a parameter and to its state, as Gaussian splatting does."""
    old = _pick(side, rng)
    if old.dim() == 0 or not old.is_contiguous():
        return

    def grown(value: Tensor) -> Tensor:
        return torch.cat([value, torch.zeros_like(value[:2])]) if value.dim() else value

    new = Parameter(grown(old.detach()), requires_grad=old.requires_grad)
    state = side.optimizer.state.pop(old, None)
    _replace(side, old, new)
    if state is not None:
        side.optimizer.state[new] = {
            name: grown(value) if isinstance(value, Tensor) else value
            for name, value in state.items()
        }


@action()
def prune(side: Side, rng: np.random.Generator) -> None:
    """Rows are taken from a parameter and from its state."""
    old = _pick(side, rng)
    if old.dim() == 0 or not old.is_contiguous() or len(old) < 2:
        return

    def pruned(value: Tensor) -> Tensor:
        return value[1:] if value.dim() else value

    new = Parameter(pruned(old.detach()), requires_grad=old.requires_grad)
    state = side.optimizer.state.pop(old, None)
    _replace(side, old, new)
    if state is not None:
        side.optimizer.state[new] = {
            name: pruned(value) if isinstance(value, Tensor) else value
            for name, value in state.items()
        }


@action()
def begin_parameter_anew(side: Side, rng: np.random.Generator) -> None:
    """A new object without the old one's state."""
    old = _pick(side, rng)
    _replace(side, old, like(old))
    side.optimizer.state.pop(old, None)


@action()
def freeze(side: Side, rng: np.random.Generator) -> None:
    p = _pick(side, rng)
    p.requires_grad_(False)
    p.grad = None


@action()
def unfreeze(side: Side, rng: np.random.Generator) -> None:
    for p in side.params:
        p.requires_grad_(True)


def _has_no_holes(p: Parameter) -> bool:
    return p.stride() == torch.empty_like(p).stride()


def _convert(holder: _Holder, dtype: torch.dtype, swap: bool) -> None:
    if swap:
        gc.collect()  # refused while dead copies, in cycles, hold a gradient
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    ways: dict[torch.dtype, Callable[[], Any]] = {
        torch.float64: holder.double,
        torch.float32: holder.float,
        torch.bfloat16: holder.bfloat16,
        torch.float16: holder.half,
    }
    try:
        ways[dtype]()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _replace_all(side: Side, new: list[Parameter]) -> None:
    """For what the module has made new objects of; it has not, but for lack of memory."""
    for p, q in zip(side.params, new):
        assert p is q, "the module has other parameters than the optimizer"
