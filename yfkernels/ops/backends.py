"""Which backends there are, and which of them serves a device: the one door to them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache

import torch

from yfkernels.ops.backend import Backend
from yfkernels.ops.table import TensorTable
from yfkernels.ops.watch import Entry, PythonWatch, Watch

BACKENDS = ("native", "triton", "torch")
"""Names of the backends in the order `backend="auto"` tries them."""

FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Parameter dtypes the fused backends take; everything else runs on the torch backend."""


def check_backend(name: str) -> None:
    """Raises ValueError unless `name` is "auto" or that of a backend."""
    if name not in ("auto", *BACKENDS):
        choices = ", ".join(("auto", *BACKENDS))
        raise ValueError(f"Invalid backend value: {name!r}; choose from {choices}")


@cache
def backend_of(name: str, device_type: str) -> Backend:
    """The backend of a name for a kind of device, whether it is usable there or not."""
    if name == "native":
        from yfkernels.ops.native.cpu import NativeCpu
        from yfkernels.ops.native.cuda import NativeCuda

        return NativeCpu() if device_type == "cpu" else NativeCuda()
    if name == "triton":
        from yfkernels.ops.triton.backend import TritonBackend

        return TritonBackend()
    from yfkernels.ops.torch.backend import TorchBackend

    return TorchBackend()


def backend_status(device_type: str) -> dict[str, str | None]:
    """For each backend None if it can serve devices of this type, else the reason why not."""
    return {name: backend_of(name, device_type).unusable(device_type) for name in BACKENDS}


def choose(requested: str, device: torch.device, dtype: torch.dtype, fusible: bool) -> Backend:
    """The backend that serves a tensor.

    Args:
        requested: "auto" or the name of a backend.
        device: where the tensor is.
        dtype: its dtype.
        fusible: whether its elements fill one stretch of memory and its gradient has its dtype.

    Returns:
        A backend. Tensors that no fused kernel takes (float64, strided with holes) get that of
        plain torch, whatever was requested, with the same result.

    Raises:
        RuntimeError: the backend requested by name cannot serve this device.
    """
    if requested != "auto":
        _require_usable(requested, device)
    if dtype not in FUSED_DTYPES or not fusible:
        return backend_of("torch", device.type)
    if requested != "auto":
        return backend_of(requested, device.type)
    chosen = preferred(device.type)
    native = backend_of("native", device.type)
    if chosen is not native:
        _warn_of_fallback(device.type, native.unusable(device.type) or "", chosen.name)
    return chosen


def preferred(device_type: str) -> Backend:
    """The backend `backend="auto"` takes for a kind of device; asks no more than it must."""
    # Triton on a CPU is its interpreter: for tests, never chosen on its own
    names = [name for name in BACKENDS if name != "triton" or device_type == "cuda"]
    candidates = (backend_of(name, device_type) for name in names)
    return next(backend for backend in candidates if backend.unusable(device_type) is None)


def build_info() -> dict[str, str] | None:
    """How the compiled module was built; None without it."""
    from yfkernels.ops.native import loading

    return loading.build_info()


def left_out() -> str:
    """Why setup.py left out compiled code; empty if it left out nothing, or has never run."""
    from yfkernels.ops.native import loading

    return loading.build_record().get("reason", "")


def archs_from() -> str:
    """What decided the GPU architectures of the compiled module; empty without any."""
    from yfkernels.ops.native import loading

    return loading.build_record().get("archs_from", "")


def watch_over(
    tables: Sequence[TensorTable], sizes: Sequence[int], entries: Sequence[Entry]
) -> Watch:
    """A watch over an optimizer: compiled, or in Python where that cannot be had.

    Args:
        tables: its tables.
        sizes: parameters of each group.
        entries: the parameters, in the order of the groups, with the addresses that the tables
            have been made with.
    """
    from yfkernels.ops.native.cpu import compiled_watch

    compiled = compiled_watch(tables, sizes, entries)
    return PythonWatch(tables, sizes, entries) if compiled is None else compiled


def _require_usable(name: str, device: torch.device) -> None:
    status = backend_status(device.type)
    if status[name] is not None:
        usable = [other for other, reason in status.items() if reason is None]
        raise RuntimeError(
            f"backend={name!r} cannot serve parameters on {device}: {status[name]}. "
            f"Usable here: {', '.join(['auto', *usable])}"
        )


@cache
def _warn_of_fallback(device_type: str, reason: str, chosen: str) -> None:
    cause = left_out()
    remedy = f" ({cause}). Install yfkernels again once that is changed; " if cause else ". "
    warnings.warn(
        f"yfkernels runs on the {chosen} backend for {device_type} tensors: {reason}{remedy}"
        "yfkernels.show_config() tells more",
        RuntimeWarning,
        stacklevel=2,
    )
