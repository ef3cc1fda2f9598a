"""Hessian-vector products by differences of ordinary gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor

from yfkernels.curvature.closures import Closure, Gradient, Product, Tensors, gradient
from yfkernels.curvature.eager import uncompiled
from yfkernels.curvature.kinks import Pieces, changed
from yfkernels.curvature.surroundings import Surroundings

# Factors of the textbook distances, from measurements on an MLP, a conv net with BatchNorm and a
# transformer, new and trained, in random directions and along the gradient: the errors of rounding
# and of truncation are about equal there, 1e-3 (central) and 1e-2 (forward) in float32.
_CENTRAL, _FORWARD = 0.1, 0.3

Factor: TypeAlias = float | Tensor


def difference(
    closure: Closure,
    params: Sequence[Tensor],
    vectors: Sequence[Tensor],
    surroundings: Surroundings,
    *,
    central: bool,
) -> Product:
    """(g(w + eps z) - g(w - eps z)) / 2 eps, or (g(w + eps z) - g(w)) / eps, and g(w).

    All evaluations have the same randomness, buffers and pieces (kinks.py); the buffers and the
    random states end as the one at w leaves them.

    Args:
        closure, params, vectors: as gradient_and_product has them.
        surroundings: those before the first evaluation.
        central: three evaluations and an error of O(eps²), instead of two and O(eps).
    """
    pieces, vectors = Pieces(params), [z.detach() for z in vectors]
    with uncompiled():
        loss, grads = gradient(pieces.recording(closure), params)
        afterwards = surroundings.now()
        distance, inverse = _distance(params, vectors, pieces.epsilon, central)

        def displaced(sign: float) -> Gradient:
            surroundings.put_back()
            _move(places, vectors, distance, sign)
            return gradient(pieces.holding(closure), params)

        try:
            with _restored(params) as places:
                ahead = displaced(1.0).grads
                behind = displaced(-2.0).grads if central else grads
        finally:
            afterwards.put_back()
    return Product(loss, grads, _quotient(grads, ahead, behind, inverse))


def _distance(
    params: Sequence[Tensor], vectors: list[Tensor], epsilon: float, central: bool
) -> tuple[Factor, Factor]:
    """eps ~ u^(1/2) (1 + ‖w‖) / ‖z‖, u^(1/3) for the central difference; and 1 / eps or 1 / 2 eps.

    u is the machine epsilon. Nocedal, Wright, "Numerical Optimization", 2nd edition, section 8.1,
    has the powers; Andrei, "Accelerated conjugate gradient algorithm with finite difference
    Hessian/vector product approximation" (2009), the norms.
    Both are 0 for z = 0, whose product is then 0.
    """
    w, z = _norm(params), _norm(vectors)
    factor = _CENTRAL * epsilon ** (1 / 3) if central else _FORWARD * epsilon**0.5
    eps = torch.where(z == 0, 0.0, factor * (1 + w) / z)
    inverse = torch.where(eps == 0, 0.0, (0.5 if central else 1.0) / eps)
    devices = {t.device for t in params}
    # The host waits for no accelerator, unless several need the number.
    if len(devices) > 1 or devices == {torch.device("cpu")}:
        return float(eps), float(inverse)
    return eps, inverse


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norms = torch._foreach_norm([t.detach() for t in tensors])
    return torch.stack([n.to(norms[0].device) for n in norms]).double().square().sum().sqrt()


def _move(places: list[Tensor], vectors: list[Tensor], distance: Factor, sign: float) -> None:
    if isinstance(distance, float):
        torch._foreach_add_(places, vectors, alpha=sign * distance)
    else:
        torch._foreach_add_(places, torch._foreach_mul(vectors, distance), alpha=sign)


@contextmanager
def _restored(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters as tensors without a graph, to be written into; put back bit for bit."""
    places = [p.detach() for p in params]
    copies = [p.clone() for p in places]
    try:
        yield places
    finally:
        torch._foreach_copy_(places, copies)


def _quotient(grads: Tensors, ahead: Tensors, behind: Tensors, inverse: Factor) -> Tensors:
    reached = [index for index, g in enumerate(grads) if g is not None]
    ends = [(a, b) for a, b in zip(ahead, behind) if a is not None and b is not None]
    if len(ends) != len(reached):
        raise changed("the model")
    # Gradients may share memory with one another; their differences do not.
    differences = torch._foreach_sub([a for a, _ in ends], [b for _, b in ends])
    torch._foreach_mul_(differences, inverse)
    products: Tensors = [None] * len(grads)
    for index, product in zip(reached, differences):
        products[index] = product
    return products
