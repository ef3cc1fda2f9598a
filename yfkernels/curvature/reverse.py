"""Hessian-vector products by reverse over reverse: the gradient of <gradient, z>."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yfkernels.curvature.closures import Closure, Product, differentiated, evaluated
from yfkernels.curvature.eager import twice_differentiable


def reverse(closure: Closure, params: Sequence[Tensor], vectors: Sequence[Tensor]) -> Product:
    """H z = d/dw <g(w), z>  (Pearlmutter 1994); exact, one evaluation, needs no modules."""
    with twice_differentiable():
        loss = evaluated(closure)
        grads = differentiated(loss, params, create_graph=True)
        # A gradient that does not depend on the parameters, as of a linear layer, has no graph.
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
