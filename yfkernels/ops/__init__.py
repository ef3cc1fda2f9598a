"""The fused operations, one backend a module, and the choice among them.

Every backend offers the same functions on a TensorTable:
    upload(table, column, pointers)       refresh the addresses of a column
    write_words(target, words)            numbers from the host into a tensor of the device
    measure(table, what, partials, sketches, nonzero)
                                          nonzero: whether that sum will be used
    measure_then_decide(table, own, partials, grad_scale, found_inf, state, coefficients)
    decide(partials, grad_scale, found_inf, state, coefficients)
    yellowfin_tune(options, partials, sketches, grad_scale, found_inf, state, groups, coefficients,
                   scratch)
    update(rule, table, coefficients)    or, for a move that hangs on norms of whole tensors,
    update_state(rule, table, coefficients)     and then
    apply(rule, table, coefficients), or
    update_state_then_apply(rule, table, coefficients)
and unusable(device_type), which says why it cannot serve a kind of device, or None.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from yfkernels.ops.table import TensorTable
from yfkernels.ops.watch import Entry, PythonWatch, Watch

BACKENDS = ("native", "triton", "torch")
"""Names of the backends in the order `backend="auto"` tries them."""

FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Parameter dtypes the fused backends take; everything else runs on the torch backend."""


def module(name: str) -> ModuleType:
    """The module of a backend."""
    return import_module(f"{__name__}.{name}")


def backend_status(device_type: str) -> dict[str, str | None]:
    """For each backend None if it can serve devices of this type, else the reason why not."""
    return {name: module(name).unusable(device_type) for name in BACKENDS}


def choose(requested: str, device: torch.device, dtype: torch.dtype, fusible: bool) -> str:
    """The backend that serves a tensor.

    Args:
        requested: "auto" or the name of a backend.
        device: where the tensor is.
        dtype: its dtype.
        fusible: whether its elements fill one stretch of memory and its gradient has its dtype.

    Returns:
        The name of a backend. Tensors that no fused kernel takes (float64, strided with holes)
        go to "torch", whatever was requested, with the same result.

    Raises:
        RuntimeError: the backend requested by name cannot serve this device.
    """
    if requested != "auto":
        _require_usable(requested, device)
    if dtype not in FUSED_DTYPES or not fusible:
        return "torch"
    if requested != "auto":
        return requested
    chosen = preferred(device.type)
    if chosen != "native":
        _warn_of_fallback(device.type, module("native").unusable(device.type), chosen)
    return chosen


def preferred(device_type: str) -> str:
    """The backend `backend="auto"` takes for a kind of device; asks no more than it must."""
    # Triton on a CPU is its interpreter: for tests, never chosen on its own
    candidates = [name for name in BACKENDS if name != "triton" or device_type == "cuda"]
    return next(name for name in candidates if module(name).unusable(device_type) is None)


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
    compiled: Watch | None = module("native").watch(tables, sizes, entries)
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
    warnings.warn(
        f"yfkernels runs on the {chosen} backend for {device_type} tensors: {reason}. "
        "yfkernels.show_config() tells more",
        RuntimeWarning,
        stacklevel=2,
    )
