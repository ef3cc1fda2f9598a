"""The Triton backend's operations. Each imports its kernels, and Triton, when it first runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.backend import Backend
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import Measure, Rule
from yfkernels.ops.table import TensorTable
from yfkernels.ops.tangents import Family, Projection
from yfkernels.ops.triton import availability


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class TritonBackend(Backend):
    """Launches on the current stream; on a CPU Triton's interpreter runs the kernels."""

    name = "triton"
    fused = True

    def unusable(self, device_type: str) -> str | None:
        return availability.unusable(device_type)

    def write_words(self, target: Tensor, words: list[int]) -> None:
        target = target.view(torch.int64)
        if target.is_cpu:
            target.copy_(torch.tensor(words, dtype=torch.int64, device="cpu"))
            return
        with _on(target.device):
            from yfkernels.ops.triton.words import is_loaded, launch_write

            # Every replay of a graph would read a pinned buffer again, long after it was freed.
            # So that the kernel can be captured, the first words take it, too.
            if torch.cuda.is_current_stream_capturing() or not is_loaded(target.device):
                launch_write(target, words)
            else:
                pinned = torch.tensor(words, dtype=torch.int64, device="cpu", pin_memory=True)
                target.copy_(pinned, non_blocking=True)

    def measure(
        self,
        table: TensorTable,
        what: Measure,
        partials: Tensor,
        sketches: Tensor | None = None,
        nonzero: bool = False,
    ) -> None:
        from yfkernels.ops.triton import measurement

        with _on(table.device):
            measurement.launch(table, what, partials, sketches)

    def decide(
        self,
        partials: Tensor | None,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        coefficients: Tensor,
    ) -> None:
        from yfkernels.ops.triton import gate

        with _on(state.device):
            gate.launch(partials, grad_scale, found_inf, state, coefficients)

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
        from yfkernels.ops.triton import measurement

        with _on(table.device):
            measurement.launch_with_gate(
                table, own, partials, grad_scale, found_inf, state, coefficients
            )

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
        from yfkernels.ops.triton import preconditioned, tune

        scalars, memory = (grad_scale, found_inf), (state, groups, coefficients)
        with _on(state.device):
            if options.preconditioned:
                preconditioned.launch(options, partials, *scalars, *memory)
            else:
                tune.launch(options, partials, sketches, *scalars, *memory, scratch)

    def update(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        from yfkernels.ops.triton import update

        with _on(table.device):
            update.launch_update(rule, table, coefficients)

    def update_state(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        from yfkernels.ops.triton import update

        with _on(table.device):
            update.launch_update_state(rule, table, coefficients)

    def apply(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        from yfkernels.ops.triton import update

        with _on(table.device):
            update.launch_apply(rule, table, coefficients)

    def average(self, table: TensorTable, coefficients: Tensor, average: WeightAverage) -> None:
        from yfkernels.ops.triton import averaging

        with _on(table.device):
            averaging.launch_average(table, coefficients, average)

    def advance_tangents(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        from yfkernels.ops.triton import tangents

        with _on(table.device):
            tangents.launch_advance(family, table, coefficients)

    def own_derivatives(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        from yfkernels.ops.triton import tangents

        with _on(table.device):
            tangents.launch_own(family, table, coefficients)

    def project(
        self, projection: Projection, table: TensorTable, coefficients: Tensor, sums: Tensor
    ) -> None:
        from yfkernels.ops.triton import projection as kernels

        with _on(table.device):
            kernels.launch_project(projection, table, coefficients, sums)
