"""What a closure may return, and the plain gradient of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Closure: TypeAlias = Callable[[], Tensor]
Tensors: TypeAlias = list[Tensor | None]  # None where the loss does not reach the parameter


class Gradient(NamedTuple):
    """A loss, detached, and its gradient; None for parameters that the loss does not reach."""

    loss: Tensor
    grads: Tensors


class Product(NamedTuple):
    """A loss, its gradient, and the Hessian of the loss times the vectors."""

    loss: Tensor
    grads: Tensors
    products: Tensors


def gradient(closure: Closure, params: Sequence[Tensor]) -> Gradient:
    """One forward and one backward pass; `p.grad` is neither read nor written.

    Args:
        closure: returns a scalar loss and does not call backward().
        params: the parameters, all with requires_grad.

    Raises:
        TypeError: `closure` returned no tensor, or `params` holds something else.
        ValueError: the loss is no scalar, needs no gradient or was already differentiated; or a
            parameter needs no gradient.
    """
    check_params(params)
    loss = evaluated(closure)
    return Gradient(loss.detach(), differentiated(loss, params))


def evaluated(closure: Closure) -> Tensor:
    """The loss, with its graph."""
    if not callable(closure):
        raise TypeError(
            f"Invalid closure type: {type(closure).__name__}; "
            "give a function that returns the loss, such as lambda: loss_fn(model(x), y)"
        )
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor):
        fix = "return the loss" if loss is None else "return the loss as a tensor, without .item()"
        raise TypeError(f"Invalid closure result: {loss!r} ({type(loss).__name__}); {fix}")
    if loss.numel() != 1 or not loss.is_floating_point():
        raise ValueError(
            f"Invalid closure result: a tensor of shape {tuple(loss.shape)} and {loss.dtype}; "
            "return a scalar loss, such as its mean over the minibatch"
        )
    if not loss.requires_grad:
        raise ValueError(
            f"Invalid closure result: the loss {loss.item():g} needs no gradient; compute it from "
            "the parameters, without torch.no_grad() or detach()"
        )
    return loss


def differentiated(
    loss: Tensor, params: Sequence[Tensor], *, create_graph: bool = False
) -> Tensors:
    """The gradient of a loss, in other memory than `params`; refuses what no closure may do."""
    # Functions marked as once_differentiable refuse to be differentiated twice only where what
    # comes back to them needs a gradient, which a loss's own 1 does not.
    one = torch.ones_like(loss, requires_grad=create_graph)
    try:
        grads = torch.autograd.grad(loss, params, one, create_graph=create_graph, allow_unused=True)
    except RuntimeError as error:
        if "through the graph a second time" not in str(error):
            raise
        raise ValueError(
            "Invalid closure: its loss has been differentiated already; "
            "leave backward() out of it, and compute the loss anew in every call"
        ) from error
    for index, grad in enumerate(grads):
        if grad is not None and grad.layout != torch.strided:
            raise ValueError(
                f"Invalid gradient of params[{index}]: its layout is {grad.layout}; "
                "make it dense, such as with Embedding(sparse=False)"
            )
    # A backward that returns its own input would let the gradient move with the parameter.
    own = {p.untyped_storage().data_ptr() for p in params}
    with torch.set_grad_enabled(create_graph):
        return [
            grad.clone() if grad is not None and grad.untyped_storage().data_ptr() in own else grad
            for grad in grads
        ]


def check_params(params: Sequence[Tensor]) -> None:
    """Raises unless `params` are tensors that need gradients."""
    for index, p in enumerate(params):
        if not isinstance(p, Tensor):
            raise TypeError(f"Invalid params[{index}] type: {type(p).__name__}; give tensors")
        if not p.requires_grad:
            raise ValueError(
                f"Invalid params[{index}]: {described(p)} has requires_grad=False; "
                "leave frozen parameters out"
            )


def check_vectors(vectors: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """Raises unless each parameter has a vector of its shape, on its device."""
    if len(vectors) != len(params):
        raise ValueError(
            f"Invalid vectors: {len(vectors)} of them for {len(params)} params; give one for each"
        )
    for index, (v, p) in enumerate(zip(vectors, params)):
        if not isinstance(v, Tensor):
            raise TypeError(f"Invalid vectors[{index}] type: {type(v).__name__}; give tensors")
        if v.shape != p.shape or v.device != p.device:
            raise ValueError(
                f"Invalid vectors[{index}]: {described(v)} on {v.device} for {described(p)} on "
                f"{p.device}; give it the shape and the device of its parameter"
            )


def described(tensor: Tensor) -> str:
    """A tensor as error messages name it."""
    return f"a tensor of shape {tuple(tensor.shape)}"
