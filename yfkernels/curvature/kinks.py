"""Networks made of pieces, such as those with ReLU, held on one piece while parameters move.

A difference of two gradients also sees every unit that crosses a kink between them: a jump, divided
by a short distance. In float32 that was 1 to 1000 times the product, measured on an MLP and a conv
net. Autograd's Hessian leaves the kinks out, and so does a difference whose evaluations all take
the pieces of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from yfkernels.curvature.closures import Closure
from yfkernels.curvature.convolution import CONVOLUTIONS

_aten: Any = torch.ops.aten
Arguments: TypeAlias = dict[str, Any]


def _named(args: Sequence[Any], kwargs: Arguments, names: Sequence[str]) -> Arguments:
    """The arguments after the input, by name."""
    return {**dict(zip(names, args[1:])), **kwargs}


# What follows is linear in x, with the slope that the function had where it returned `was`.


def _relu(x: Tensor, was: Tensor, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    held: Tensor = _aten.threshold_backward.default(x, was, 0)
    return held


def _leaky_relu(x: Tensor, was: Tensor, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    slope = _named(args, kwargs, ("negative_slope",)).get("negative_slope", 0.01)
    held: Tensor = _aten.leaky_relu_backward.default(x, was, slope, False)
    return held


def _hardtanh(x: Tensor, was: Tensor, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    given = _named(args, kwargs, ("min_val", "max_val"))
    low, high = given.get("min_val", -1.0), given.get("max_val", 1.0)
    saturated = was - _aten.hardtanh_backward.default(was, was, low, high)
    held: Tensor = _aten.hardtanh_backward.default(x, was, low, high) + saturated
    return held


def _relu6(x: Tensor, was: Tensor, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    return _hardtanh(x, was, (x, 0.0, 6.0), {})


_ELEMENTWISE: dict[Any, Callable[[Tensor, Tensor, Sequence[Any], Arguments], Tensor]] = {
    F.relu: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    Tensor.relu: _relu,
    Tensor.relu_: _relu,
    F.leaky_relu: _leaky_relu,
    F.hardtanh: _hardtanh,
    F.relu6: _relu6,
}
_IN_PLACE = (torch.relu_, Tensor.relu_)
# These return the places of the maxima, flat over so many dimensions, if asked.
_POOLS: dict[Any, int] = {
    F.max_pool1d: 1,
    F.max_pool2d: 2,
    F.max_pool3d: 3,
    F.adaptive_max_pool1d: 1,
    F.adaptive_max_pool2d: 2,
    F.adaptive_max_pool3d: 3,
}
_TF32 = 2.0**-10  # its machine epsilon


class Pieces:
    """The pieces on which the first evaluation was, and how coarsely it computed.

    Known are relu, leaky_relu, relu6, hardtanh and max pooling, as modules and as functions; but
    not what torch.utils.checkpoint computes anew in the backward pass. The outputs of these
    functions stay in memory until the last evaluation.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.recorded: list[Tensor] = []
        params = list(params)
        self.devices = {p.device.type for p in params}
        self.epsilon = max(torch.finfo(p.dtype).eps for p in params)

    def recording(self, closure: Closure) -> Closure:
        """The closure for the first evaluation."""
        return self._under(_Recording, closure)

    def holding(self, closure: Closure) -> Closure:
        """The closure for another evaluation."""
        return self._under(_Holding, closure)

    def _under(self, mode: Callable[[Pieces], TorchFunctionMode], closure: Closure) -> Closure:
        def evaluate() -> Tensor:
            with mode(self):
                return closure()

        return evaluate

    def note_precision(self, function: Any) -> None:
        """Autocast and TF32 compute with coarser numbers than the parameters have."""
        for device in self.devices:
            if torch.is_autocast_enabled(device):
                epsilon = torch.finfo(torch.get_autocast_dtype(device)).eps
                self.epsilon = max(self.epsilon, epsilon)
        if "cuda" in self.devices and self.epsilon < _TF32:
            convolves = function in CONVOLUTIONS and torch.backends.cudnn.allow_tf32
            multiplies = torch.backends.cuda.matmul.allow_tf32
            # float64 has no TF32
            if (convolves or multiplies) and self.epsilon > torch.finfo(torch.float64).eps:
                self.epsilon = _TF32


class _Recording(TorchFunctionMode):
    def __init__(self, pieces: Pieces) -> None:
        super().__init__()
        self._pieces = pieces

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Arguments | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._pieces.note_precision(func)
        if func in _POOLS and not kwargs.get("return_indices"):
            result, indices = func(*args, **{**kwargs, "return_indices": True})
            self._pieces.recorded.append(indices)
            return result
        result = func(*args, **kwargs)
        if func in _ELEMENTWISE:
            self._pieces.recorded.append(result.detach())
        return result


class _Holding(TorchFunctionMode):
    def __init__(self, pieces: Pieces) -> None:
        super().__init__()
        self._next = iter(pieces.recorded)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Arguments | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _POOLS and not kwargs.get("return_indices"):
            x, indices, dims = args[0], self._recorded(func), _POOLS[func]
            return x.flatten(-dims).gather(-1, indices.flatten(-dims)).view_as(indices)
        if func not in _ELEMENTWISE:
            return func(*args, **kwargs)
        x, was = args[0], self._recorded(func)
        if was.shape != x.shape:
            raise changed(getattr(func, "__name__", str(func)))
        held = _ELEMENTWISE[func](x, was, args, kwargs)
        if func in _IN_PLACE or kwargs.get("inplace"):
            return x.copy_(held)
        return held

    def _recorded(self, func: Any) -> Tensor:
        try:
            return next(self._next)
        except StopIteration:
            raise changed(getattr(func, "__name__", str(func))) from None


def changed(name: str) -> ValueError:
    """The error of a closure whose evaluations differ in more than the parameters."""
    return ValueError(
        f"Invalid closure: its second evaluation calls {name} otherwise than its first; "
        "let every call compute the same loss of the same minibatch"
    )
