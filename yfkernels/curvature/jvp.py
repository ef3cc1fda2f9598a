"""Hessian-vector products by forward over reverse: the gradient of dual numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from yfkernels.curvature.closures import Closure, Product, differentiated, evaluated
from yfkernels.curvature.eager import twice_differentiable
from yfkernels.curvature.modules import Owner, UnknownModuleError, owners


def jvp(
    closure: Closure,
    params: Sequence[Tensor],
    vectors: Sequence[Tensor],
    modules: Iterable[nn.Module],
) -> Product:
    """g(w + e z) = g(w) + e H z with e² = 0  (Pearlmutter 1994); exact, one evaluation.

    The modules hold w + e z in place of w while the closure runs.

    Raises:
        UnknownModuleError: a parameter is used in another place than these modules.
    """
    places = owners(params, modules)
    with forward_ad.dual_level(), twice_differentiable():
        duals = [
            forward_ad.make_dual(p.detach().requires_grad_(), z.detach().to(p))
            for p, z in zip(params, vectors)
        ]
        with _in_place_of_parameters(duals, places):
            loss = evaluated(closure)
            grads = differentiated(loss, [*duals, *params])
        for index, direct in enumerate(grads[len(params) :]):
            if direct is not None:
                raise UnknownModuleError(
                    f"Invalid closure: it uses params[{index}] other than through a module, where "
                    'hvp="jvp" does not see it; use hvp="reverse" or hvp="central"'
                )
        unpacked = [None if g is None else forward_ad.unpack_dual(g) for g in grads[: len(params)]]
        value = forward_ad.unpack_dual(loss).primal.detach()
    firsts = [None if g is None else g.primal.detach() for g in unpacked]
    products = [
        None if g is None else torch.zeros_like(p) if g.tangent is None else g.tangent.detach()
        for p, g in zip(params, unpacked)
    ]
    return Product(value, firsts, products)


@contextmanager
def _in_place_of_parameters(duals: Sequence[Tensor], places: list[Owner]) -> Iterator[None]:
    before = [module._parameters[name] for module, name, _ in places]
    # RNNs keep a list of their weights beside the parameters.
    lists = [m._flat_weights for m in {o.module for o in places} if isinstance(m, nn.RNNBase)]
    copies = [list(flat) for flat in lists]
    dual_of = {id(p): duals[owner.number] for p, owner in zip(before, places)}
    try:
        for module, name, number in places:
            module._parameters[name] = duals[number]  # type: ignore[assignment]  # no Parameter
        for flat in lists:
            flat[:] = [dual_of.get(id(weight), weight) for weight in flat]
        yield
    finally:
        for (module, name, _), parameter in zip(places, before):
            module._parameters[name] = parameter
        for flat, copy in zip(lists, copies):
            flat[:] = copy
