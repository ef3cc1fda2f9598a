"""A model's parameters and gradients as flat tensors, so that one copy moves all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from yfkernels._checks import require

_ALIGNMENT = 64  # bytes; the kernels' widest access, and a cache line


class Gradients(tuple[Tensor, ...]):
    """Flat gradients of a model, zeros at first, with a view for each of its parameters.

    Attributes:
        params: the parameters.
        views: in the order of the parameters.
        read_only: whether nobody may write there.
    """

    params: list[Tensor]
    views: list[Tensor]
    read_only: bool


class FlatBuffers:
    """Makes parameters views of flat tensors, one for each dtype and device, and gradients too.

    Parameters lie in the order in which they are given, row by row, each from a multiple of 64
    bytes on; the gaps are zeros. A server and its workers that build the same model have the same
    layout. Parameters that need no gradient, or have no element, are left out.

    Args:
        model: a module, or its parameters.

    Attributes:
        params: the parameters, now views of `parameters`. Their `grad` are views of `gradients`.
        parameters: flat tensors, in the order in which their dtypes and devices are first met.
        gradients: flat tensors of the same sizes, zeros at first. A parameter that takes no part in
            a loss has a gradient of zeros, not None.

    Raises:
        TypeError: a parameter that is no dense, real tensor with memory of its own.
        ValueError: no parameter needs a gradient.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> buffers = FlatBuffers(model)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> buffers.gradients[0][:6]
        tensor([1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, model: nn.Module | Iterable[Tensor]) -> None:
        given = model.parameters() if isinstance(model, nn.Module) else model
        once = {id(param): param for param in given}.values()
        self.params = [param for param in once if param.requires_grad and param.numel()]
        require(bool(self.params), "model", model, "one with a parameter that needs a gradient")
        for index, param in enumerate(self.params):
            _require_dense(index, param)
        members: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for index, param in enumerate(self.params):
            members.setdefault((param.dtype, param.device), []).append(index)
        self.parameters = tuple(self._flatten(same) for same in members.values())
        self._members = list(members.values())
        self.gradients = self.more_gradients()
        self.attach()

    def more_gradients(self) -> Gradients:
        """Further flat gradients, for `attach`."""
        return self.gradients_in([torch.zeros_like(flat) for flat in self.parameters])

    def gradients_in(self, flats: Iterable[Tensor], *, read_only: bool = False) -> Gradients:
        """The same in memory that there is, such as that of a message.

        Args:
            flats: as large as `gradients`, and of the same dtypes and devices.
            read_only: whether nobody may write there.
        """
        gradients = Gradients(flats)
        gradients.read_only = read_only
        gradients.params = self.params
        gradients.views = list(self.params)  # in their places, replaced just below
        for same, gradient in zip(self._members, gradients):
            for index, start in zip(same, self._starts(same)):
                param = self.params[index]
                gradients.views[index] = gradient[start : start + param.numel()].view(param.shape)
        return gradients

    def _starts(self, members: Sequence[int]) -> list[int]:
        """Where each parameter begins, and the end of them all."""
        starts = [0]
        for index in members:
            param = self.params[index]
            unit = max(_ALIGNMENT // param.element_size(), 1)
            starts.append(starts[-1] + -(-param.numel() // unit) * unit)
        return starts

    def _flatten(self, members: Sequence[int]) -> Tensor:
        starts = self._starts(members)
        first = self.params[members[0]]
        flat = torch.zeros(starts[-1], dtype=first.dtype, device=first.device)
        for index, start in zip(members, starts):
            param = self.params[index]
            view = flat[start : start + param.numel()].view(param.shape)
            view.copy_(param.detach())
            param.data = view
        return flat

    def own(self, gradients: Sequence[Tensor]) -> TypeGuard[Gradients]:
        """Whether these are of `more_gradients`, or `gradients`."""
        return isinstance(gradients, Gradients) and gradients.params is self.params

    def attach(self, gradients: Gradients | None = None) -> None:
        """Makes the parameters' `grad` the views of `gradients`, or of this object's own."""
        given = self.gradients if gradients is None else gradients
        for param, grad in zip(self.params, given.views):
            if param.grad is not grad:
                param.grad = grad

    def zero_grad(self) -> None:
        """Sets the own gradients to zero, ready for backward()."""
        self.attach()
        for gradient in self.gradients:
            gradient.zero_()

    def fit(self, flats: Sequence[Tensor]) -> bool:
        """Whether tensors have the number, the shapes and the dtypes of these."""
        forms = [(flat.shape, flat.dtype) for flat in self.parameters]
        return [(flat.shape, flat.dtype) for flat in flats] == forms

    def copy_from(self, parameters: Sequence[Tensor]) -> None:
        """Takes the values of another model's flat parameters: what a worker does with a pull.

        Raises:
            ValueError: another number of tensors, another size or dtype.
        """
        given = [(len(flat), flat.dtype) for flat in parameters]
        require(self.fit(parameters), "parameters", given, "those of the same model")
        for mine, theirs in zip(self.parameters, parameters):
            mine.copy_(theirs)


def all_finite(flats: Iterable[Tensor]) -> bool:
    """One pass that allocates nothing: an extreme is NaN if any element is."""
    return all(math.isfinite(end) for flat in flats for end in torch.aminmax(flat))


def _require_dense(index: int, param: Tensor) -> None:
    plain = type(param) in (Tensor, nn.Parameter)
    dense = param.layout is torch.strided and not param.is_meta
    if not (plain and dense and param.is_floating_point()):
        raise TypeError(
            f"Invalid model: parameter {index} of shape {tuple(param.shape)} is a {param.dtype} "
            f"{type(param).__name__} of layout {param.layout} on {param.device}; give a model of "
            "dense, unsharded, real parameters"
        )
