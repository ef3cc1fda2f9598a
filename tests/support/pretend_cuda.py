"""A pytest plugin: tests of the Triton kernels take this machine for one with a CUDA device.

    TRITON_INTERPRET=1 pytest -p support.pretend_cuda -m cuda tests/ops/test_triton_tune.py

Kernels are interpreted, and tensors on "cuda" lie in the memory of the host; but what torch refuses
of a tensor on a device is refused here too: NumPy, and operations with tensors of the host. So the
tests' own mistakes are seen where there is no device. Nothing is learnt about the kernels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)
COPYING = (
    "copy_",
    "__setitem__",
    "to",
    "set_",
    "__getitem__",
    "_has_compatible_shallow_copy_type",
)  # from one device to another


class OnDevice(Tensor):
    """A tensor that is taken to lie on the device."""


def flattened(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from flattened(value)
        else:
            yield value


def is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or value in ("cpu", "cuda")


def place_is_cuda(place: Any) -> bool:
    return torch.device(place).type == "cuda"


class Pretence(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        options.pop("pin_memory", None)
        name = getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)  # of a property's getter
        first = args[0] if args else None
        here = isinstance(first, OnDevice)
        if name == "__get__" and owner is Tensor.device:
            return CUDA if here else func(*args)
        if name == "__get__" and owner in (Tensor.is_cuda, Tensor.is_cpu):
            return here == (owner is Tensor.is_cuda)
        if here and name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

        if here and name == "__deepcopy__":
            return copied(first, args[1])

        tensors = [x for x in flattened([*args, *options.values()]) if isinstance(x, Tensor)]
        onto = any(isinstance(tensor, OnDevice) for tensor in tensors)
        named = options.get("device")
        if name == "to":  # the target may be given by its place, and a tensor stands for its own
            places = [x for x in (*args[1:], named) if isinstance(x, Tensor) or is_device(x)]
            onto = here
            for place in places:
                is_tensor = isinstance(place, Tensor)
                onto = isinstance(place, OnDevice) if is_tensor else place_is_cuda(place)
            args = tuple("cpu" if is_device(x) else x for x in args)
            if onto != here:
                options["copy"] = True
        elif name == "cpu":
            onto, named = False, "cpu"
        elif named is not None:
            onto = place_is_cuda(named)
        elif onto and name not in COPYING:
            far = [x for x in tensors if not isinstance(x, OnDevice) and x.dim() > 0]
            if far:
                raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        if "device" in options:
            options["device"] = "cpu"
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **options)
        if name == "cpu" and here:
            result = result.clone()
        return placed(result, first if name == "copy_" else None, onto)


def copied(tensor: Any, memo: dict[int, Any]) -> Any:
    """A deep copy, which torch refuses to make of a class that it does not know."""
    if id(tensor) not in memo:
        with torch._C.DisableTorchFunction():
            twin = copy.deepcopy(tensor.detach().as_subclass(Tensor), memo).as_subclass(OnDevice)
            twin.requires_grad_(tensor.requires_grad)
            if isinstance(tensor, torch.nn.Parameter):
                twin._is_param = True
            if tensor.grad is not None:
                twin.grad = copied(tensor.grad, memo)
        memo[id(tensor)] = twin
    return memo[id(tensor)]


def placed(result: Any, itself: Any, onto: bool) -> Any:
    if itself is not None:
        return itself
    if isinstance(result, Tensor):
        if isinstance(result, OnDevice) == onto:  # an operation in place: still a leaf
            return result
        moved = result.as_subclass(OnDevice if onto else Tensor)
        if result.requires_grad and result.is_leaf:
            return moved.detach().requires_grad_()
        return moved
    if type(result) in (list, tuple):
        return type(result)(placed(each, None, onto) for each in result)
    return result


def interpret_on_the_host() -> None:
    """The interpreter takes every tensor as it is."""
    from triton.runtime.interpreter import GridExecutor

    interpreted = GridExecutor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        with torch._C.DisableTorchFunction():
            interpreted(self, *args, **kwargs)

    GridExecutor.__call__ = call


def pretend() -> None:
    from yfkernels.ops.triton import availability

    def on(device: object) -> AbstractContextManager[None]:
        return nullcontext()

    torch.cuda.is_available = lambda: True  # type: ignore[method-assign]
    torch.cuda.device = on  # type: ignore[assignment,misc]
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.cuda.get_device_properties = lambda _: SimpleNamespace(  # type: ignore[assignment]
        multi_processor_count=1
    )
    availability._refusal = lambda interpreter: None  # type: ignore[assignment]
    availability._cannot_launch = lambda: None  # type: ignore[assignment]
    # a parameter of the host cannot become one of the device in place, as torch has it
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    interpret_on_the_host()
    Pretence().__enter__()


pretend()
