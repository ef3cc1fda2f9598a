"""The Triton backend: CUDA without the extension, and a CPU through Triton's interpreter.

Triton is imported with the first use, not with this package: it takes a second.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from yfkernels.ops.rules import Measure, Rule
from yfkernels.ops.table import Column, TensorTable
from yfkernels.ops.tuner import TunerOptions

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
        mend = "set" if interpreter else "unset"
        return f"{mend} TRITON_INTERPRET before Triton is imported"
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


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def write_words(target: Tensor, words: list[int]) -> None:
    """Writes int64 words (or the bits of doubles) to a one-dimensional tensor.

    On CUDA asynchronous, and legal under graph capture.
    """
    target = target.view(torch.int64)
    if target.is_cpu:
        target.copy_(torch.tensor(words, dtype=torch.int64, device="cpu"))
        return
    with _on(target.device):
        from yfkernels.ops.triton.words import is_loaded, launch_write

        # Every replay of a graph would read a pinned buffer again, long after it was freed. So that
        # the kernel can be captured, the first words take it, too.
        if torch.cuda.is_current_stream_capturing() or not is_loaded(target.device):
            launch_write(target, words)
        else:
            pinned = torch.tensor(words, dtype=torch.int64, device="cpu", pin_memory=True)
            target.copy_(pinned, non_blocking=True)


def upload(table: TensorTable, column: Column, pointers: list[int]) -> None:
    """Refreshes the addresses in a column of the table."""
    write_words(table.column(column), pointers)


def measure(
    table: TensorTable,
    what: Measure,
    partials: Tensor,
    sketches: Tensor | None = None,
    nonzero: bool = False,
) -> None:
    """One pass over g (and gbar): sums of squares and products into the table's slots."""
    from yfkernels.ops.triton import measurement

    with _on(table.device):
        measurement.launch(table, what, partials, sketches)


def decide(
    partials: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """Adds up the slots and decides on the step where `state` lives."""
    from yfkernels.ops.triton import gate

    with _on(state.device):
        gate.launch(partials, grad_scale, found_inf, state, coefficients)


def measure_then_decide(
    table: TensorTable,
    own: Tensor,
    partials: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """Measures the norm of the last table into `own` of the slots; then the gate."""
    from yfkernels.ops.triton import measurement

    with _on(table.device):
        measurement.launch_with_gate(
            table, own, partials, grad_scale, found_inf, state, coefficients
        )


def yellowfin_tune(
    options: TunerOptions,
    partials: Tensor,
    sketches: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    groups: Tensor,
    coefficients: Tensor,
    scratch: Tensor,
) -> None:
    """Adds up the slots and runs the tuner where `state` lives."""
    from yfkernels.ops.triton import preconditioned, tune

    scalars, memory = (grad_scale, found_inf), (state, groups, coefficients)
    with _on(state.device):
        if options.preconditioned:
            preconditioned.launch(options, partials, *scalars, *memory)
        else:
            tune.launch(options, partials, sketches, *scalars, *memory, scratch)


def update(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """One pass over all tensors: state and parameters advance."""
    from yfkernels.ops.triton import update

    with _on(table.device):
        update.launch_update(rule, table, coefficients)


def update_state(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """The first of two passes: state advances, and the norms of p and u go to `table.norms`."""
    from yfkernels.ops.triton import update

    with _on(table.device):
        update.launch_update_state(rule, table, coefficients)


def apply(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """The second of two passes: parameters move by a length that hangs on `table.norms`."""
    from yfkernels.ops.triton import update

    with _on(table.device):
        update.launch_apply(rule, table, coefficients)


def update_state_then_apply(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """Both passes, where no other process has parts of the tensors."""
    update_state(rule, table, coefficients)
    apply(rule, table, coefficients)
