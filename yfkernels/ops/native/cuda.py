"""The compiled backend on NVIDIA's GPUs: persistent grids on the current stream."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, cast

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
from yfkernels.ops.native.module import CudaModule
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import Measure, Rule
from yfkernels.ops.table import TensorTable
from yfkernels.ops.tangents import Family, Projection


@cache
def _device_count(module: CudaModule) -> tuple[int, str]:
    return module.cuda_device_count()


def runs_on(archs: str, capability: tuple[int, int]) -> bool:
    """Whether code for these architectures runs on a GPU.

    Args:
        archs: as in "sm_80 sm_90 compute_90". Machine code runs on GPUs of its own major version
            and no older minor one, PTX (compute_) on all that are not older.
        capability: the GPU's, (major, minor).
    """
    for kind, digits, minor in re.findall(r"(sm|compute)_(\d+)(\d)[af]?\b", archs):
        code = (int(digits), int(minor))
        if code <= capability and (kind == "compute" or code[0] == capability[0]):
            return True
    return False


@cache
def _not_compiled_for(module: CudaModule) -> str | None:
    """Which visible GPU the module has no code for, if there is one."""
    archs = module.build_info()["cuda_archs"]
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if not runs_on(archs, (major, minor)):
            return (
                f"the extension yfkernels._C was compiled for {archs}, which cuda:{index} "
                f"(sm_{major}{minor}) cannot run; build it again with YFK_CUDA_ARCHS={major}{minor}"
            )
    return None


class NativeCuda(Backend):
    """Launches the compiled kernels with addresses and sizes.

    Args:
        compiled: the module; None for yfkernels._C.
    """

    name = "native"
    fused = True

    def __init__(self, compiled: CudaModule | None = None) -> None:
        # None, or a module without CUDA, where `unusable` says so
        self._c = cast("CudaModule", loading.compiled if compiled is None else compiled)

    def unusable(self, device_type: str) -> str | None:
        if self._c is None:
            return loading.reason
        if device_type != "cuda":
            return f"it has no kernels for {device_type} devices"
        if not hasattr(self._c, "cuda_device_count"):
            return "the extension yfkernels._C was built without CUDA"
        count, reason = _device_count(self._c)
        return _not_compiled_for(self._c) if count else f"no CUDA device: {reason}"

    def _queue(self, device: torch.device) -> tuple[int, int]:
        """(index of the device, address of its current stream)."""
        stream = torch.cuda.current_stream(device)
        return stream.device_index, stream.cuda_stream

    def _gate_arguments(
        self,
        partials: Tensor | None,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        coefficients: Tensor,
    ) -> Any:
        return self._c.GateArguments(
            0 if partials is None else len(partials),
            address(partials),
            address(grad_scale),
            address(found_inf),
            state.data_ptr(),
            *coefficients.shape,
            coefficients.data_ptr(),
        )

    def write_words(self, target: Tensor, words: list[int]) -> None:
        # the words travel as kernel arguments
        place = (target.data_ptr(), target.stride(0))
        self._c.cuda_write_words(*place, words, *self._queue(target.device))

    def measure(
        self,
        table: TensorTable,
        what: Measure,
        partials: Tensor,
        sketches: Tensor | None = None,
        nonzero: bool = False,
    ) -> None:
        # counting what is not zero costs nothing here
        slots = (table.num_slots, partials.data_ptr(), address(sketches))
        self._c.cuda_measure(*table_of(table), what, *slots, *self._queue(table.device))

    def decide(
        self,
        partials: Tensor | None,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        coefficients: Tensor,
    ) -> None:
        given = self._gate_arguments(partials, grad_scale, found_inf, state, coefficients)
        self._c.cuda_decide(given, *self._queue(state.device))

    def measure_then_decide(
        self,
        table: TensorTable,
        own: Tensor,
        partials: Tensor,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        coefficients: Tensor,
    ) -> None:
        given = self._gate_arguments(partials, grad_scale, found_inf, state, coefficients)
        slots = (table.num_slots, own.data_ptr())
        ticket = table.tickets.data_ptr()
        queue = self._queue(table.device)
        self._c.cuda_measure_then_decide(*table_of(table), *slots, given, ticket, *queue)

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
        self._c.cuda_yellowfin_tune(
            compiled_options(self._c, options),
            len(partials),
            partials.data_ptr(),
            address(sketches),
            address(grad_scale),
            address(found_inf),
            state.data_ptr(),
            len(groups),
            groups.data_ptr(),
            coefficients.data_ptr(),
            scratch.data_ptr(),
            *self._queue(state.device),
        )

    def update(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table), rule.id, coefficients.data_ptr())
        sums = (table.chunk_sums.data_ptr(), table.move_sums.data_ptr())
        tickets = (table.tickets.data_ptr(), table.tickets[-1:].data_ptr())
        self._c.cuda_update(*given, *sums, *tickets, *self._queue(table.device))

    def update_state(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table), rule.id, coefficients.data_ptr())
        norms = (table.chunk_sums.data_ptr(), table.norms.data_ptr())
        tickets = table.tickets.data_ptr()
        self._c.cuda_update_state(*given, *norms, tickets, *self._queue(table.device))

    def apply(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table), rule.id, coefficients.data_ptr(), table.norms.data_ptr())
        self._c.cuda_apply(*given, *self._queue(table.device))

    def average(self, table: TensorTable, coefficients: Tensor, average: WeightAverage) -> None:
        given = (*table_of(table), *average_of(average, coefficients))
        self._c.cuda_average(*given, *self._queue(table.device))

    def advance_tangents(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table)[:-1], family.id, coefficients.data_ptr())
        self._c.cuda_advance_tangents(*given, *self._queue(table.device))

    def own_derivatives(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        given = (*table_of(table)[:-1], family.id, coefficients.data_ptr())
        self._c.cuda_own_derivatives(*given, *self._queue(table.device))

    def project(
        self, projection: Projection, table: TensorTable, coefficients: Tensor, sums: Tensor
    ) -> None:
        given = (*table_of(table)[:-1], *projection_of(projection), coefficients.data_ptr())
        places = (table.chunk_sums.data_ptr(), sums.data_ptr(), table.tickets.data_ptr())
        self._c.cuda_project(*given, *places, *self._queue(table.device))
