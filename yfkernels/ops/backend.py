"""What a backend offers."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import Measure, Rule
from yfkernels.ops.table import Column, TensorTable
from yfkernels.ops.tangents import Family, Projection


class Backend(Protocol):
    """The operations of a step over a table, on one kind of device.

    Everything is enqueued where the tensors are: no method waits for a device.

    Attributes:
        name: one of BACKENDS.
        fused: whether its kernels take addresses, a launch a table; else it takes tensors.
    """

    name: str
    fused: bool

    def unusable(self, device_type: str) -> str | None:
        """Why it cannot serve a kind of device, or None."""
        ...

    def write_words(self, target: Tensor, words: list[int]) -> None:
        """Writes int64 words (or the bits of doubles) to a strided one-dimensional tensor.

        Asynchronous, and legal while a graph is captured.
        """
        ...

    def upload(self, table: TensorTable, column: Column, pointers: list[int]) -> None:
        """Refreshes the addresses in a column of the table."""
        self.write_words(table.column(column), pointers)

    # ---- measure

    def measure(
        self,
        table: TensorTable,
        what: Measure,
        partials: Tensor,
        sketches: Tensor | None = None,
        nonzero: bool = False,
    ) -> None:
        """One pass over the gradients (and their averages): sums into the table's slots.

        Args:
            table: the tensors.
            what: what to sum besides squares.
            partials: float64 [slots, len(SUMS)].
            sketches: [slots, TILE]; None unless `what` is SKETCH.
            nonzero: whether the number of non-zero entries will be used.
        """
        ...

    # ---- tune

    def decide(
        self,
        partials: Tensor | None,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        coefficients: Tensor,
    ) -> None:
        """The gate: adds up the slots and decides on the step, where `state` lives.

        Args:
            partials: slots of all tables; None if nothing was measured.
            grad_scale: GradScaler's loss scale, if the gradients still carry it.
            found_inf: GradScaler's verdict, non-zero to skip the step.
            state: float64, GATE_STATE.
            coefficients: float64 [groups, fields of the rule], whose head is filled in.
        """
        ...

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
        """Measures the norm of the last table into `own` of the slots; then as `decide`."""
        self.measure(table, Measure.NORM, own)
        self.decide(partials, grad_scale, found_inf, state, coefficients)

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
        """Adds up the slots and runs the tuner, where `state` lives.

        Args:
            options: the tuner's.
            partials, sketches: slots of all tables.
            grad_scale, found_inf: as for `decide`.
            state: float64, `options.state_words` of them.
            groups: float64 [groups, GROUP_FIELDS].
            coefficients: float64 [groups, YellowFin's fields], written.
            scratch: float64 [TILE + 1], zeros before the first call.
        """
        ...

    # ---- apply

    def update(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        """All at once: state and parameters, and `table.move_sums` if the rule has any."""
        ...

    def update_state(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        """The first of two passes: the state, and ‖p‖² and ‖u‖² into `table.norms`."""
        ...

    def apply(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        """The second of two passes: parameters move by a length that depends on `table.norms`."""
        ...

    def update_state_then_apply(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        """Both passes, where no other process has parts of the tensors."""
        self.update_state(rule, table, coefficients)
        self.apply(rule, table, coefficients)

    # ---- averages

    def average(self, table: TensorTable, coefficients: Tensor, average: WeightAverage) -> None:
        """Advances the averages of the tensors whose turn it is; after the step, which counts it.

        Args:
            table: parameters, steps and averages; only tensors with a gradient take part.
            coefficients: of any rule: a step that is not active changes nothing.
            average: how they advance.
        """
        ...

    # ---- tangents, of tensors that have a gradient (ops/tangents.py has columns and formulas)

    def advance_tangents(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        """Advances Z over the optimizer's step that comes next; B into the probe if it is kept.

        Args:
            family: the kind of step.
            table: g, w, the probe with h, the slots and all of Z.
            coefficients: float64 [rows, fields of the family], by Row.group.
        """
        ...

    def own_derivatives(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        """B of the optimizer's step that comes next, into the place of Zw.

        Args:
            family: the kind of step.
            table: g, w, the slots and Zw; other columns are neither read nor written.
            coefficients: as for `advance_tangents`; damping and keeps_own do not count.
        """
        ...

    def project(
        self, projection: Projection, table: TensorTable, coefficients: Tensor, sums: Tensor
    ) -> None:
        """Sums of e B, e Zw, e² and B² over every tensor, e being the table's gradients.

        Args:
            projection: where B and Zw are.
            table: its columns, and w where a decay is not 0; none is written.
            coefficients: float64 [rows, PROJECTION], by Row.group.
            sums: float64 [rows, PROJECTED], written; 0 for a tensor without a gradient.
        """
        ...

    # ---- outside the step

    def trust_ratio(self, rule: Rule, coefficients: Tensor, norms: Tensor) -> Tensor:
        """The ratios that `apply` works out from the norms of tensors.

        Args:
            rule: one of two passes.
            coefficients: [tensors, fields]: of each tensor's group.
            norms: [tensors, 2]: ‖p‖² and ‖u‖² of each.
        """
        from yfkernels.ops.torch.rules import formula_of

        scalars = dict(zip(rule.fields, coefficients.unbind(1)))
        return formula_of(rule).trust_ratio(scalars, *norms.unbind(1))

    def sum_of_squares(self, tensor: Tensor) -> Tensor:
        """Σx² in float64, of a tensor of any dtype and layout."""
        from yfkernels.ops.torch.sums import sum_of_squares

        return sum_of_squares(tensor)

    def single_step(
        self, distance: float, variance: float, h_min: float, h_max: float
    ) -> tuple[float, float]:
        """SingleStep on the host: (lr, momentum)."""
        from yfkernels.ops.torch.single_step import single_step as in_torch

        given = (distance, variance, h_min, h_max)
        d, c, low, high = (torch.tensor(x, dtype=torch.float64, device="cpu") for x in given)
        lr, momentum = in_torch(d, c, low, high)
        return float(lr), float(momentum)
