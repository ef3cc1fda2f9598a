"""Hessian-vector products by reverse over reverse: the gradient of <gradient, z>."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yfkernels.curvature.closures import Closure, Product, differentiated, evaluated
from yfkernels.curvature.eager import twice_differentiable
from yfkernels.curvature.layers import ShortSecondDerivatives


def reverse(
    closure: Closure, params: Sequence[Tensor], vectors: Sequence[Tensor], *, inspect: bool = True
) -> Product:
    """H z = d/dw <g(w), z>  (Pearlmutter 1994); exact, one evaluation, needs no modules.

    Args:
        closure, params, vectors: as gradient_and_product has them.
        inspect: look for functions that autograd would silently take for constant, which takes
            about 3 us an operation. Once a model is enough.
    """
    with twice_differentiable():
        with ShortSecondDerivatives():
            loss = evaluated(closure)
        grads = differentiated(loss, params, create_graph=True)
        if inspect:
            _refuse_once_differentiable(grads)
        # An expanded or constant gradient may have no graph.
        pairs = [(g, z.to(g)) for g, z in zip(grads, vectors) if g is not None and g.requires_grad]
        second: Sequence[Tensor | None] = [None] * len(params)
        if pairs:
            second = torch.autograd.grad(
                [g for g, _ in pairs], params, [z for _, z in pairs], allow_unused=True
            )
    products = [
        None if g is None else torch.zeros_like(p) if h is None else h.detach()
        for p, g, h in zip(params, grads, second)
    ]
    return Product(loss.detach(), [None if g is None else g.detach() for g in grads], products)


def _refuse_once_differentiable(grads: Sequence[Tensor | None]) -> None:
    """Raises where the graph of the gradients ends at a function that has no second derivative.

    Autograd raises only if it goes there, and to the parameters it goes past it: the products would
    lack terms.
    """
    todo = [g.grad_fn for g in grads if g is not None and g.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("a function that is marked with once_differentiable")
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
