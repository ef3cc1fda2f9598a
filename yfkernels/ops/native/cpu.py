"""The compiled backend on CPUs: threads and SIMD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.backend import Backend
from yfkernels.ops.native import loading
from yfkernels.ops.native.arguments import (
    address,
    average_of,
    compiled_options,
    projection_of,
    table_of,
)
from yfkernels.ops.native.module import Module
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import Measure, Rule
from yfkernels.ops.table import TensorTable
from yfkernels.ops.tangents import Family, Projection
from yfkernels.ops.watch import Entry, Watch

_PARALLEL_NUMEL = 1 << 16  # below this a second thread costs more than it brings


def _threads(table: TensorTable) -> int:
    return torch.get_num_threads() if table.numel >= _PARALLEL_NUMEL else 1


def _scaler(grad_scale: Tensor | None, found_inf: Tensor | None) -> tuple[float, bool]:
    inv_scale = 1.0 if grad_scale is None else 1.0 / float(grad_scale)
    return inv_scale, found_inf is not None and bool(found_inf)


class NativeCpu(Backend):
    """Calls into the compiled module with addresses and sizes; every operation is done at once.

    Args:
        compiled: the module; None for yfkernels._C.
    """

    name = "native"
    fused = True

    def __init__(self, compiled: Module | None = None) -> None:
        # None where `unusable` says so
        self._c = cast("Module", loading.compiled if compiled is None else compiled)

    def unusable(self, device_type: str) -> str | None:
        return loading.reason if self._c is None else None

    def write_words(self, target: Tensor, words: list[int]) -> None:
        self._c.cpu_write_words(target.data_ptr(), target.stride(0), words)

    def measure(
        self,
        table: TensorTable,
        what: Measure,
        partials: Tensor,
        sketches: Tensor | None = None,
        nonzero: bool = False,
    ) -> None:
        slots = (table.num_slots, nonzero, partials.data_ptr(), address(sketches))
        self._c.cpu_measure(*table_of(table), what, *slots, _threads(table))

    def decide(
        self,
        partials: Tensor | None,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        coefficients: Tensor,
    ) -> None:
        slots = (0, 0) if partials is None else (len(partials), partials.data_ptr())
        memory = (state.data_ptr(), *coefficients.shape, coefficients.data_ptr())
        self._c.cpu_decide(*slots, *_scaler(grad_scale, found_inf), *memory)

    def tune_yellowfin(
        self,
        options: YellowFinOptions,
        partials: Tensor,
        sketches: Tensor | None,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        groups: Tensor,
        coefficients: Tensor,
        scratch: Tensor,
    ) -> None:
        self._c.cpu_yellowfin_tune(
            compiled_options(self._c, options),
            len(partials),
            partials.data_ptr(),
            address(sketches),
            *_scaler(grad_scale, found_inf),
            state.data_ptr(),
            len(groups),
            groups.data_ptr(),
            coefficients.data_ptr(),
        )

    def update(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table), rule.id, coefficients.data_ptr())
        sums = (table.chunk_sums.data_ptr(), table.move_sums.data_ptr())
        self._c.cpu_update(*given, *sums, _threads(table))

    def update_state(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table), rule.id, coefficients.data_ptr())
        norms = (table.chunk_sums.data_ptr(), table.norms.data_ptr())
        self._c.cpu_update_state(*given, *norms, _threads(table))

    def apply(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table), rule.id, coefficients.data_ptr(), table.norms.data_ptr())
        self._c.cpu_apply(*given, _threads(table))

    def update_state_then_apply(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        # a few tensors at a time: the second pass meets a warm cache
        given = (*table_of(table), rule.id, coefficients.data_ptr())
        norms = (table.chunk_sums.data_ptr(), table.norms.data_ptr())
        self._c.cpu_update_state_then_apply(*given, *norms, _threads(table))

    def average(self, table: TensorTable, coefficients: Tensor, average: WeightAverage) -> None:
        given = (*table_of(table), *average_of(average, coefficients))
        self._c.cpu_average(*given, _threads(table))

    def advance_tangents(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table)[:-1], family.id, coefficients.data_ptr())
        self._c.cpu_advance_tangents(*given, _threads(table))

    def own_derivatives(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table)[:-1], family.id, coefficients.data_ptr())
        self._c.cpu_own_derivatives(*given, _threads(table))

    def project(
        self, projection: Projection, table: TensorTable, coefficients: Tensor, sums: Tensor
    ) -> None:
        given = (*table_of(table)[:-1], *projection_of(projection), coefficients.data_ptr())
        places = (table.chunk_sums.data_ptr(), sums.data_ptr())
        self._c.cpu_project(*given, *places, _threads(table))

    def single_step(
        self, distance: float, variance: float, h_min: float, h_max: float
    ) -> tuple[float, float]:
        return self._c.single_step(distance, variance, h_min, h_max)


def compiled_watch(
    tables: Sequence[TensorTable], sizes: Sequence[int], entries: Sequence[Entry]
) -> Watch | None:
    """The compiled watch over an optimizer, if this torch tells addresses to compiled code."""
    api = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if loading.compiled is None or api is None:
        return None
    # where the rows are in host memory it writes new addresses there itself
    rows = [(len(t.rows), t.words.data_ptr() if _on_host(t) else 0) for t in tables]
    try:
        return loading.compiled.Watch(
            api, Tensor.is_neg, Tensor.is_conj, rows, list(sizes), list(entries)
        )
    except RuntimeError:  # memory that DLPack has no name for, or another version of it
        return None


def _on_host(table: TensorTable) -> bool:
    return isinstance(table.backend, NativeCpu)
