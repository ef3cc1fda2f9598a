"""Which modules a closure runs, and which of them own a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from yfkernels.curvature.closures import Closure, Tensors, described, evaluated, gradient
from yfkernels.curvature.surroundings import Surroundings, called


class Discovered(NamedTuple):
    """A loss and its gradient, and the modules that computed them."""

    loss: Tensor
    grads: Tensors
    modules: list[nn.Module]


def discover(closure: Closure, params: Sequence[Tensor]) -> Discovered:
    """An ordinary gradient, during which a hook records the modules that were called.

    Modules inside a called one are among them.

    Args:
        closure: returns a scalar loss and does not call backward().
        params: the parameters, all with requires_grad.

    Raises:
        TypeError, ValueError: as `gradient` does.
    """
    found: list[nn.Module] = []
    with called(found.extend):
        loss, grads = gradient(closure, params)
    return Discovered(loss, grads, found)


def find_modules(closure: Closure, params: Sequence[Tensor]) -> list[nn.Module]:
    """The modules that a closure calls, in an evaluation of which nothing else is left.

    Args:
        closure: returns a scalar loss and does not call backward().
        params: the parameters, all with requires_grad.

    Raises:
        TypeError, ValueError: as `gradient` does.
    """
    found: list[nn.Module] = []
    before = Surroundings(params, None)
    try:
        with before.watching(), called(found.extend):
            evaluated(closure)
    finally:
        before.put_back()
    return found


class UnknownModuleError(ValueError):
    """A parameter is used by a module that is not among those given."""


class Owner(NamedTuple):
    """A place where a parameter is registered; a tied one has several."""

    module: nn.Module
    name: str
    number: int  # in params


def owners(params: Sequence[Tensor], modules: Iterable[nn.Module]) -> list[Owner]:
    """All places of all parameters.

    Raises:
        UnknownModuleError: no module owns some parameter.
    """
    indices = {id(p): index for index, p in enumerate(params)}
    found = [
        Owner(module, name, indices[id(p)])
        for module in modules
        for name, p in module._parameters.items()
        if p is not None and id(p) in indices
    ]
    missing = sorted(set(indices.values()) - {owner.number for owner in found})
    if missing:
        shown = ", ".join(f"params[{i}], {described(params[i])}" for i in missing[:3])
        more = f", and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UnknownModuleError(
            f"Invalid modules: none of them owns {shown}{more}; give all of model.modules(), "
            'or use hvp="reverse" or hvp="central", which need no modules'
        )
    return found
