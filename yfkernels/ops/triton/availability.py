"""Whether Triton can serve a kind of device.

Triton is imported with the first question, not with this package: it takes a second.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch

_OLDEST = (3, 6)  # 3.5 cannot compile the sketch's measure kernel


@cache
def unusable(device_type: str) -> str | None:
    """Why this backend cannot serve a kind of device, or None."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if device_type == "cuda":
        if not torch.cuda.is_available():
            return "torch finds no CUDA device"
        if torch.version.hip:
            return "its kernels are for NVIDIA's GPUs"  # the options they are launched with are
        return _refusal(interpreter=False) or _cannot_launch()
    if device_type == "cpu":
        if "TRITON_INTERPRET" not in os.environ:
            return "Triton has no compiler for CPUs; TRITON_INTERPRET=1 runs its interpreter"
        return _refusal(interpreter=True)
    return f"it has no kernels for {device_type} devices"


def _refusal(interpreter: bool) -> str | None:
    """Why Triton as it was imported cannot interpret, or cannot compile; None if it can."""
    try:
        import triton
        import triton.language as tl
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    if tuple(map(int, triton.__version__.split(".")[:2])) < _OLDEST:
        return f"Triton {triton.__version__} is too old: install {_OLDEST[0]}.{_OLDEST[1]} or newer"
    # Triton decides when it is imported whether to interpret, for its own functions and for ours
    from yfkernels.ops.triton.gate import gate

    compiled = [isinstance(function, triton.JITFunction) for function in (tl.zeros, gate)]
    if any(compiled) if interpreter else not all(compiled):
        change = "set" if interpreter else "unset"
        return f"{change} TRITON_INTERPRET before Triton is imported"
    return None


def _cannot_launch() -> str | None:
    """Why no kernel can be launched on the current CUDA device; None if one can.

    Triton builds a part of itself when it first launches, which slim images have no compiler for.
    """
    from yfkernels.ops.triton.launch import load_nothing

    try:
        load_nothing()
    except Exception as error:  # of a subprocess, an import, the driver: whatever Triton met
        lines = str(error).strip().splitlines() or [type(error).__name__]
        needs = "it needs a C compiler and Python's header files"
        return f"Triton cannot launch kernels here ({needs}): {lines[0]}"
    return None
