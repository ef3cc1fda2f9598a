"""The compiled module yfkernels._C: CPU with SIMD and threads, CUDA with persistent grids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops.rules import GATE_STATE, RULES, Measure, Rule
from yfkernels.ops.table import COLUMNS, ROW_WORDS, Column, TensorTable
from yfkernels.ops.tuner import (
    GROUP_FIELDS,
    STATE_FIELDS,
    STATE_FORMAT,
    SUMS,
    TILE,
    TunerOptions,
)
from yfkernels.ops.watch import Entry, Place, Seen, Watch

_DTYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_PARALLEL_NUMEL = 1 << 16  # below this a second thread costs more than it brings


def _load() -> tuple[Any, str | None]:
    try:
        module: Any = import_module("yfkernels._C")
    except ModuleNotFoundError:
        return None, "the extension yfkernels._C was not built"
    except ImportError as error:
        return None, f"the extension yfkernels._C cannot be loaded: {error}"
    expected = {
        "COLUMNS": COLUMNS,
        "ROW_WORDS": ROW_WORDS,
        "STATE_WORDS": len(STATE_FIELDS),
        "STATE_FORMAT": STATE_FORMAT,
        "GROUP_WORDS": len(GROUP_FIELDS),
        "GATE_WORDS": len(GATE_STATE),
        "COEFFICIENT_WORDS": [len(rule.fields) for rule in RULES],
        "SEEN": [value for name, value in vars(Seen).items() if name.isupper()],
        "PLACES": list(Place),
        "SUMS": len(SUMS),
        "TILE": TILE,
    }
    layout = {name: getattr(module, name, None) for name in expected}
    if layout != expected:
        return None, "the extension yfkernels._C was built from other sources; build it again"
    return module, None


_C, _import_error = _load()


def build_info() -> dict[str, str] | None:
    """Compiler, CUDA version, architectures and instruction set; None without the extension."""
    return None if _C is None else dict(_C.build_info())


@cache
def unusable(device_type: str) -> str | None:
    """Why this backend cannot serve a kind of device, or None."""
    if _C is None:
        return _import_error
    if device_type == "cpu":
        return None
    if device_type != "cuda":
        return f"it has no kernels for {device_type} devices"
    if not hasattr(_C, "cuda_device_count"):
        return "the extension yfkernels._C was built without CUDA"
    count, reason = _C.cuda_device_count()
    return None if count else f"no CUDA device: {reason}"


@cache
def _options(options: TunerOptions) -> Any:
    return _C.TunerOptions(**vars(options))


def single_step(
    distance: float, variance: float, h_min: float, h_max: float
) -> tuple[float, float]:
    """SingleStep on the host: (lr, momentum)."""
    lr, momentum = _C.single_step(distance, variance, h_min, h_max)
    return lr, momentum


def watch(
    tables: Sequence[TensorTable], sizes: Sequence[int], entries: Sequence[Entry]
) -> Watch | None:
    """The compiled watch over an optimizer, if this torch tells addresses to compiled code."""
    api = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if _C is None or api is None:
        return None
    # where the rows are in host memory it writes new addresses there itself
    rows = [
        (len(table.rows), table.words.data_ptr() if _on_host_here(table) else 0) for table in tables
    ]
    try:
        compiled: Watch = _C.Watch(
            api, Tensor.is_neg, Tensor.is_conj, rows, list(sizes), list(entries)
        )
    except RuntimeError:  # memory that DLPack has no name for, or another version of it
        return None
    return compiled


def _on_host_here(table: TensorTable) -> bool:
    return table.backend == "native" and table.device.type == "cpu"


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _queue(device: torch.device) -> tuple[int, int]:
    stream = torch.cuda.current_stream(device)
    return stream.device_index, stream.cuda_stream


def _table(table: TensorTable) -> tuple[int, int, int, int, int]:
    return (
        table.words.data_ptr(),
        table.chunks.data_ptr(),
        table.num_chunks,
        table.chunk_size,
        _DTYPE[table.dtype],
    )


def _threads(table: TensorTable) -> int:
    return torch.get_num_threads() if table.numel >= _PARALLEL_NUMEL else 1


def write_words(target: Tensor, words: list[int]) -> None:
    """Writes int64 words (or the bits of doubles) to a strided one-dimensional tensor.

    On CUDA the words travel as kernel arguments: asynchronous, and legal under graph capture.
    """
    place = target.data_ptr(), target.stride(0)
    if target.is_cpu:
        _C.cpu_write_words(*place, words)
    else:
        _C.cuda_write_words(*place, words, *_queue(target.device))


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
    slots, sketch = partials.data_ptr(), _address(sketches)
    if table.device.type == "cpu":
        counts = (table.num_slots, nonzero, slots, sketch, _threads(table))
        _C.cpu_measure(*_table(table), what, *counts)
    else:  # counting is free on a GPU
        queue = _queue(table.device)
        _C.cuda_measure(*_table(table), what, table.num_slots, slots, sketch, *queue)


def decide(
    partials: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """Adds up the slots and decides on the step where `state` lives."""
    if state.is_cpu:
        inv_scale, overflow = _on_host(grad_scale, found_inf)
        slots = (0, 0) if partials is None else (len(partials), partials.data_ptr())
        memory = (state.data_ptr(), *coefficients.shape, coefficients.data_ptr())
        _C.cpu_decide(*slots, inv_scale, overflow, *memory)
    else:
        arguments = _gate_arguments(partials, grad_scale, found_inf, state, coefficients)
        _C.cuda_decide(arguments, *_queue(state.device))


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
    if table.device.type == "cpu":
        measure(table, Measure.NORM, own)
        decide(partials, grad_scale, found_inf, state, coefficients)
    else:
        arguments = _gate_arguments(partials, grad_scale, found_inf, state, coefficients)
        slots = (table.num_slots, own.data_ptr())
        ticket = table.tickets.data_ptr()
        _C.cuda_measure_then_decide(
            *_table(table), *slots, arguments, ticket, *_queue(table.device)
        )


def _on_host(grad_scale: Tensor | None, found_inf: Tensor | None) -> tuple[float, bool]:
    inv_scale = 1.0 if grad_scale is None else 1.0 / float(grad_scale)
    return inv_scale, found_inf is not None and bool(found_inf)


def _gate_arguments(
    partials: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> Any:
    return _C.GateArguments(
        0 if partials is None else len(partials),
        _address(partials),
        _address(grad_scale),
        _address(found_inf),
        state.data_ptr(),
        *coefficients.shape,
        coefficients.data_ptr(),
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
    slots = (len(partials), partials.data_ptr(), _address(sketches))
    memory = (state.data_ptr(), len(groups), groups.data_ptr(), coefficients.data_ptr())
    if state.is_cpu:
        inv_scale, overflow = _on_host(grad_scale, found_inf)
        _C.cpu_yellowfin_tune(_options(options), *slots, inv_scale, overflow, *memory)
    else:
        _C.cuda_yellowfin_tune(
            _options(options),
            *slots,
            _address(grad_scale),
            _address(found_inf),
            *memory,
            scratch.data_ptr(),
            *_queue(state.device),
        )


def update(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """One pass over all tensors: state and parameters advance, and `table.move_sums` if any."""
    given = (*_table(table), rule.id, coefficients.data_ptr())
    move_sums = (table.chunk_sums.data_ptr(), table.move_sums.data_ptr())
    if table.device.type == "cpu":
        _C.cpu_update(*given, *move_sums, _threads(table))
    else:
        tickets = (table.tickets.data_ptr(), table.tickets[-1:].data_ptr())
        _C.cuda_update(*given, *move_sums, *tickets, *_queue(table.device))


def update_state(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """The first of two passes: state advances, and the norms of p and u go to `table.norms`."""
    given = (*_table(table), rule.id, coefficients.data_ptr())
    norms = (table.chunk_sums.data_ptr(), table.norms.data_ptr())
    if table.device.type == "cpu":
        _C.cpu_update_state(*given, *norms, _threads(table))
    else:
        _C.cuda_update_state(*given, *norms, table.tickets.data_ptr(), *_queue(table.device))


def apply(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """The second of two passes: parameters move by a length that hangs on `table.norms`."""
    given = (*_table(table), rule.id, coefficients.data_ptr(), table.norms.data_ptr())
    if table.device.type == "cpu":
        _C.cpu_apply(*given, _threads(table))
    else:
        _C.cuda_apply(*given, *_queue(table.device))


def update_state_then_apply(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """Both passes, where no other process has parts of the tensors."""
    if table.device.type == "cpu":  # a few tensors at a time: the second pass meets a warm cache
        given = (*_table(table), rule.id, coefficients.data_ptr())
        norms = (table.chunk_sums.data_ptr(), table.norms.data_ptr())
        _C.cpu_update_state_then_apply(*given, *norms, _threads(table))
    else:
        update_state(rule, table, coefficients)
        apply(rule, table, coefficients)
