"""How a tensor's elements lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_order(tensor: Tensor) -> list[int]:
    """The dimensions of `tensor` from the slowest to the fastest in memory."""
    strides = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda dim: -strides[dim])


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, each place once, in any order of dims."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for dim in reversed(memory_order(tensor)):
        size = tensor.size(dim)
        if size == 1:
            continue
        if tensor.stride(dim) != expected:
            return False
        expected *= size
    return True


def flatten(tensor: Tensor, order: list[int]) -> Tensor:
    """`tensor` as one dimension, its dims taken in `order`; a view where memory allows it."""
    return tensor.permute(order).reshape(-1)


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape keep their elements in the same order in memory."""
    strides = zip(a.shape, a.stride(), b.stride())
    return all(size == 1 or first == second for size, first, second in strides)


def new_state(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros in the layout of `tensor`."""
    return torch.zeros_like(tensor, dtype=dtype)


def unflatten(flat: Tensor, like: Tensor, order: list[int]) -> Tensor:
    """Undoes `flatten`: `flat` in the shape of `like`."""
    sizes = [like.size(dim) for dim in order]
    return flat.view(sizes).permute([order.index(dim) for dim in range(like.dim())])


def laid_out(tensor: Tensor, like: Tensor, *, copy: bool = False) -> Tensor:
    """A tensor in the order in memory that another one has."""
    if not copy and same_layout(tensor, like):
        return tensor
    out = new_state(like, tensor.dtype)
    out.copy_(tensor)
    return out
