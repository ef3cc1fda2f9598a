"""The gradient of a validation loss, which leaves no trace in the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from yfkernels.curvature.closures import Closure, Gradient, gradient
from yfkernels.curvature.surroundings import RandomStates, called


def validation_gradient(
    closure: Closure, params: Sequence[Tensor], modules: Iterable[nn.Module] | None = None
) -> Gradient:
    """The gradient with the modules in eval mode; afterwards each has the mode it had.

    Dropout is off and BatchNorm uses its running statistics, which stay as they are. The random
    states are put back, so that a validation does not change what the training draws next.

    The flag `training` is set without a call of `train()` or `eval()`, which some modules override
    in order to merge or freeze weights.

    Args:
        closure: returns a scalar loss and does not call backward().
        params: the parameters, all with requires_grad.
        modules: all of model.modules(); None: those that the closure calls, and those inside.

    Raises:
        TypeError, ValueError: as `gradient` does.
    """
    modes: dict[nn.Module, bool] = {}

    def to_eval(inside: Iterable[nn.Module]) -> None:
        inside = list(inside)
        for module in inside:
            modes.setdefault(module, module.training)
        for module in inside:  # a compiled model passes its mode on to the one in it
            module.training = False

    random = RandomStates(params)
    try:
        if modules is not None:
            to_eval(modules)
            return gradient(closure, params)
        with called(to_eval):
            return gradient(closure, params)
    finally:
        for module, training in modes.items():
            module.training = training
        random.put_back()
