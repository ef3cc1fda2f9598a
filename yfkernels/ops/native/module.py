"""The functions of yfkernels._C, as csrc/bindings.cpp offers them.

Addresses are integers, 0 for none. A table is five of them: see `arguments.table_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from yfkernels.ops.watch import Watch


class Module(Protocol):
    """What every build has."""

    def __hash__(self) -> int: ...

    TunerOptions: Callable[..., Any]
    Watch: Callable[..., Watch]

    def layout(self, /) -> dict[str, Any]:
        """Names of fields and values of constants: see `loading.layout`."""

    def build_info(self, /) -> dict[str, str]:
        """compiler, cuda_version, cuda_archs, instruction_set, threads."""

    def single_step(
        self, distance: float, variance: float, h_min: float, h_max: float, /
    ) -> tuple[float, float]:
        """(lr, momentum)."""

    def cpu_write_words(self, destination: int, stride: int, words: Sequence[int], /) -> None:
        """Writes int64 words, `stride` of them apart."""

    def cpu_measure(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        what: int,
        num_slots: int,
        nonzero: bool,
        partials: int,
        sketches: int,
        threads: int,
        /,
    ) -> None:
        """Sums over a table's gradients, into slots."""

    def cpu_yellowfin_tune(
        self,
        options: Any,
        num_slots: int,
        partials: int,
        sketches: int,
        inv_scale: float,
        found_inf: bool,
        state: int,
        num_groups: int,
        groups: int,
        coefficients: int,
        /,
    ) -> None:
        """The tuner's step."""

    def cpu_decide(
        self,
        num_slots: int,
        partials: int,
        inv_scale: float,
        found_inf: bool,
        state: int,
        num_groups: int,
        words: int,
        coefficients: int,
        /,
    ) -> None:
        """The gate's step; words: of each group's coefficients."""

    def cpu_update(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        rule: int,
        coefficients: int,
        chunk_move_sums: int,
        move_sums: int,
        threads: int,
        /,
    ) -> None:
        """State and parameters in one pass."""

    def cpu_update_state(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        rule: int,
        coefficients: int,
        chunk_norms: int,
        norms: int,
        threads: int,
        /,
    ) -> None:
        """The first of two passes: state and norms."""

    def cpu_apply(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        rule: int,
        coefficients: int,
        norms: int,
        threads: int,
        /,
    ) -> None:
        """The second of two passes: parameters."""

    def cpu_update_state_then_apply(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        rule: int,
        coefficients: int,
        chunk_norms: int,
        norms: int,
        threads: int,
        /,
    ) -> None:
        """Both passes, tensor by tensor."""

    def cpu_average(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        average: int,
        coefficients: int,
        power: float,
        every: float,
        threads: int,
        /,
    ) -> None:
        """Averages of the parameters; average: their dtype."""

    def cpu_advance_tangents(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        family: int,
        coefficients: int,
        threads: int,
        /,
    ) -> None:
        """Z over the step that comes next."""

    def cpu_own_derivatives(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        family: int,
        coefficients: int,
        threads: int,
        /,
    ) -> None:
        """The step's own derivative, in the place of Zw."""

    def cpu_project(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        projection: int,
        own: int,
        tangent: int,
        coefficients: int,
        chunk_sums: int,
        sums: int,
        threads: int,
        /,
    ) -> None:
        """Sums of every tensor; columns that are not wanted are -1."""


class CudaModule(Module, Protocol):
    """What a build with CUDA has besides. Launches go to (device, stream), waited for by nobody."""

    GateArguments: Callable[..., Any]

    def cuda_device_count(self, /) -> tuple[int, str]:
        """(devices, why there is none)."""

    def cuda_write_words(
        self, destination: int, stride: int, words: Sequence[int], device: int, stream: int, /
    ) -> None:
        """Writes int64 words, `stride` of them apart; they travel as kernel arguments."""

    def cuda_measure(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        what: int,
        num_slots: int,
        partials: int,
        sketches: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """Sums over a table's gradients, into slots."""

    def cuda_measure_then_decide(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        num_slots: int,
        partials: int,
        gate: Any,
        ticket: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """Sums over a table's gradients, and the gate's step by the last block."""

    def cuda_decide(self, gate: Any, device: int, stream: int, /) -> None:
        """The gate's step."""

    def cuda_yellowfin_tune(
        self,
        options: Any,
        num_slots: int,
        partials: int,
        sketches: int,
        grad_scale: int,
        found_inf: int,
        state: int,
        num_groups: int,
        groups: int,
        coefficients: int,
        scratch: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """The tuner's step."""

    def cuda_update(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        rule: int,
        coefficients: int,
        chunk_move_sums: int,
        move_sums: int,
        tickets: int,
        ticket: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """State and parameters in one pass."""

    def cuda_update_state(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        rule: int,
        coefficients: int,
        chunk_norms: int,
        norms: int,
        tickets: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """The first of two passes: state and norms."""

    def cuda_apply(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        rule: int,
        coefficients: int,
        norms: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """The second of two passes: parameters."""

    def cuda_average(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        dtype: int,
        average: int,
        coefficients: int,
        power: float,
        every: float,
        device: int,
        stream: int,
        /,
    ) -> None:
        """Averages of the parameters; average: their dtype."""

    def cuda_advance_tangents(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        family: int,
        coefficients: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """Z over the step that comes next."""

    def cuda_own_derivatives(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        family: int,
        coefficients: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """The step's own derivative, in the place of Zw."""

    def cuda_project(
        self,
        rows: int,
        chunks: int,
        num_chunks: int,
        chunk_size: int,
        projection: int,
        own: int,
        tangent: int,
        coefficients: int,
        chunk_sums: int,
        sums: int,
        tickets: int,
        device: int,
        stream: int,
        /,
    ) -> None:
        """Sums of every tensor; columns that are not wanted are -1."""
