"""The gradient of a minibatch loss and its Hessian times vectors, by one of four methods."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from yfkernels._checks import require
from yfkernels._warn import warn
from yfkernels.curvature.closures import Closure, Product, check_params, check_vectors
from yfkernels.curvature.difference import difference
from yfkernels.curvature.jvp import jvp
from yfkernels.curvature.modules import UnknownModuleError, find_modules
from yfkernels.curvature.reverse import reverse
from yfkernels.curvature.surroundings import Surroundings

METHODS = ("auto", "reverse", "jvp", "central", "forward")
# What "auto" tries. Reverse is exact and needs no modules. In plain steps it took 2.3 to 2.8 for an
# MLP, a conv net and a transformer where jvp took 3.2 to 4.5, and less memory. A central difference
# takes any operation.
_EXACT, _ANY = "reverse", "central"


def gradient_and_product(
    closure: Closure,
    params: Sequence[Tensor],
    vectors: Sequence[Tensor],
    *,
    method: str = "auto",
    modules: Iterable[nn.Module] | None = None,
) -> Product:
    """The loss, its gradient g and the products H z with its Hessian, all at the parameters w.

    Whatever the method: `p.grad` is not touched; afterwards the parameters are what they were bit
    for bit, and buffers (BatchNorm's statistics) and torch's random states are what one evaluation
    leaves. A failed call leaves them as they were before it. The Hessian is autograd's, without
    the kinks of ReLU and the like. Models of torch.compile run uncompiled meanwhile (torch >= 2.6).
    Gradients are those of this process: DistributedDataParallel reduces only what backward()
    computes.

    Args:
        closure: returns a scalar loss and does not call backward(). Each call computes the same
            loss of the same minibatch, with random numbers from torch's default generators alone.
        params: the parameters, all with requires_grad.
        vectors: z, a tensor for each parameter, of its shape and on its device.
        method: "reverse": exact, one evaluation, differentiated twice. "jvp": exact, by dual
            numbers in the modules; one evaluation more where it has to find them. "central": three
            gradients; takes any operation; relative error about 1e-3 in float32, 1e-9 in float64.
            "forward": two gradients, about 1e-2 and 1e-7; the cheapest for conv nets. Under
            autocast to bfloat16 the exact ones err by 1e-2 to 1e-1, and differences keep a rough
            direction at best. "auto": reverse; central with a warning where an operation has no
            second derivative.
        modules: all of model.modules(), or what discover() found. None: the modules that the
            closure calls.

    Returns:
        (loss, grads, products): None in both lists for parameters that the loss does not reach.
        What is not finite is returned as it is.

    Raises:
        TypeError: `closure` returned no tensor, or `params` or `vectors` hold something else.
        ValueError: the loss is no scalar or needs no gradient, shapes differ, the method is
            unknown, or jvp finds a parameter in no module.
        RuntimeError: an operation lacks the derivative that "reverse" or "jvp" needs. One thing
            cannot be noticed: an autograd.Function whose backward only scales what its forward has
            stored, such as fused losses, has a second derivative of 0 for "reverse"; use "central".

    Example:
        >>> import torch
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> z = torch.tensor([1.0, 0.0])
        >>> loss, grads, products = gradient_and_product(lambda: w.prod() ** 2, [w], [z])
        >>> grads[0], products[0]
        (tensor([8., 4.]), tensor([8., 8.]))
    """
    return HessianProduct(method, modules)(closure, params, vectors)


class HessianProduct:
    """`gradient_and_product` for many steps: it remembers what has worked.

    That is the method of "auto", and the modules of "jvp": it looks for more of them in a step that
    uses a parameter in another place.

    Args:
        method: as `gradient_and_product` has it.
        modules: likewise; may be assigned later, such as after discover().

    Attributes:
        settled: the method that the next call uses.
    """

    def __init__(self, method: str = "auto", modules: Iterable[nn.Module] | None = None) -> None:
        require(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
        self.method = method
        self.modules = None if modules is None else list(modules)
        self.settled = _EXACT if method == "auto" else method
        self._inspected = False
        self._found: list[nn.Module] = []  # by jvp, where no modules are given

    def __call__(
        self, closure: Closure, params: Sequence[Tensor], vectors: Sequence[Tensor]
    ) -> Product:
        """The loss, its gradient and the products; see `gradient_and_product`."""
        check_params(params)
        check_vectors(vectors, params)
        if not params:
            raise ValueError("Invalid params: empty; give the parameters of the model")
        try:
            return self._attempt(self.settled, closure, params, vectors)
        except RuntimeError as error:  # NotImplementedError is one, and torch's lack of memory
            if self.settled in ("central", "forward"):
                raise
            why = _lacking(error)
            if self.method != "auto":
                if why is None:
                    raise
                message = f'hvp="{self.method}" cannot differentiate this loss twice: {why}; '
                raise RuntimeError(message + f'use hvp="{_ANY}"') from error
            # An error of the closure itself is raised here once more, in place of a warning.
            result = self._attempt(_ANY, closure, params, vectors)
            warn(
                f"The loss cannot be differentiated twice: {why or _first_line(error)}; from now "
                f'on Hessian-vector products are central differences (hvp="{_ANY}")'
            )
            self.settled = _ANY
            return result

    @property
    def fell_back(self) -> bool:
        """Whether "auto" has met an operation that takes differences only."""
        return self.method == "auto" and self.settled == _ANY

    @fell_back.setter
    def fell_back(self, value: bool) -> None:
        if self.method == "auto":
            self.settled = _ANY if value else _EXACT

    def _attempt(
        self, method: str, closure: Closure, params: Sequence[Tensor], vectors: Sequence[Tensor]
    ) -> Product:
        """One method; a failure leaves everything as it was."""
        before = Surroundings(params, self.modules)
        try:
            with before.watching():
                if method == "reverse":
                    result = reverse(closure, params, vectors, inspect=not self._inspected)
                    self._inspected = True
                    return result
                if method == "jvp":
                    return self._jvp(closure, params, vectors, before)
                central = method == "central"
                return difference(closure, params, vectors, before, central=central)
        except BaseException:
            before.put_back()
            raise

    def _jvp(
        self,
        closure: Closure,
        params: Sequence[Tensor],
        vectors: Sequence[Tensor],
        before: Surroundings,
    ) -> Product:
        """In the given modules, or in those that were found; looks anew where these do not do."""
        if self.modules is not None:
            return jvp(closure, params, vectors, self.modules)
        if self._found:
            try:
                return jvp(closure, params, vectors, self._found)
            except UnknownModuleError:  # the closure calls one that no earlier step has called
                before.put_back()
        found = find_modules(closure, params)
        self._found = list(dict.fromkeys([*self._found, *found]))
        return jvp(closure, params, vectors, self._found)


# What torch says where an operation lacks a derivative; a group is its name.
_LACKING = (
    r"Trying to use forward AD with (\S+) that does not support it",
    r"derivative for '?(\S+?)'? is not implemented",
    r"derivative of '?(\S+?)'? is not implemented",
    r"(once_differentiable)",
    r"implement the (jvp function for custom autograd\.Function)",
    r"(torch\.compile with aot_autograd) does not currently support double backward",
)


def _lacking(error: RuntimeError) -> str | None:
    for pattern in _LACKING:
        if found := re.search(pattern, str(error)):
            return f"{found[1]} lacks a derivative"
    return None


def _first_line(error: RuntimeError) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
