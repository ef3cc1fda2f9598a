"""Plain torch: the same operations tensor by tensor, for anything the fused backends do not take.

It is also the readable statement of what the kernels do. Works in the dtype of the state, so
float64 parameters are measured and moved in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from yfkernels.ops import float8
from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.backend import Backend
from yfkernels.ops.constants import MEASURED
from yfkernels.ops.memory import flatten, memory_order, unflatten
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import Measure, Rule, Stored
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.tangents import Family, Projection
from yfkernels.ops.torch import random, tangents
from yfkernels.ops.torch.rules import Formula, Scalars, formula_of
from yfkernels.ops.torch.sums import sketch as sketch_of
from yfkernels.ops.torch.sums import total
from yfkernels.ops.torch.tuner import tune_yellowfin

_Beside = TypeVar("_Beside")


class TorchBackend(Backend):
    """Takes the tensors as they are; serves every device."""

    name = "torch"
    fused = False

    def unusable(self, device_type: str) -> None:
        return None

    def write_words(self, target: Tensor, words: list[int]) -> None:
        places = target.view(torch.int64)
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            for place, word in zip(places, words):  # which travel as arguments of kernels
                place.fill_(word)
        else:
            places.copy_(torch.tensor(words, dtype=torch.int64, device="cpu"))

    def upload(self, table: TensorTable, column: Column, pointers: list[int]) -> None:
        """Nothing to do."""

    def measure(
        self,
        table: TensorTable,
        what: Measure,
        partials: Tensor,
        sketches: Tensor | None = None,
        nonzero: bool = False,
    ) -> None:
        # added up in new tensors: a wrapper subclass may carry out what is in place more than once
        totals = torch.zeros_like(partials[0, : len(MEASURED)])
        sketch = None if sketches is None else torch.zeros_like(sketches[0])
        for _, row, grad in _pairs(table, table.rows):
            g = grad.to(_precision(row.param))
            dot = avg_sq = g.new_zeros((), dtype=torch.float64)
            if what == Measure.AVERAGE:
                average = row.columns[Column.state(1)]
                dot, avg_sq = total(average * g), total(average * average)
            count = torch.full_like(dot, g.numel())
            sums = torch.stack([total(g * g), dot, avg_sq, g.count_nonzero().double(), count])
            totals = totals + sums
            if sketch is not None:
                sketch = sketch + sketch_of(row, grad).to(sketch.dtype)
        partials[0, : len(MEASURED)].copy_(totals)
        if sketches is not None and sketch is not None:
            sketches[0].copy_(sketch)

    def decide(
        self,
        partials: Tensor | None,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        state: Tensor,
        coefficients: Tensor,
    ) -> None:
        old_norm, skipped = state.unbind()
        inv_scale = torch.ones_like(skipped) if grad_scale is None else 1.0 / grad_scale.double()
        norm = torch.full_like(skipped, torch.nan)
        active = torch.ones_like(skipped, dtype=torch.bool)
        if partials is not None:
            norm_sq = partials[:, 0].sum() * inv_scale * inv_scale
            norm, active = norm_sq.sqrt(), norm_sq.isfinite()
        if found_inf is not None:
            active = active & (found_inf == 0)
        sign, max_norm = coefficients[:, 2], coefficients[:, 3]
        clip = torch.where(norm > max_norm, max_norm / norm, 1.0)
        coefficients[:, 0] = active.double()
        coefficients[:, 1] = sign * inv_scale * clip
        norm = torch.where(active, norm, old_norm)
        state.copy_(torch.stack([norm, skipped + (~active).double()]))

    def update(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        active = coefficients[0, 0] != 0.0
        move_sums = torch.zeros_like(table.move_sums[: rule.move_sums])
        for _, row, grad in _pairs(table, table.rows):
            formula, param, u, advanced = _directed(rule, row, grad, coefficients)
            moved = formula.moved(param, u)
            if rule.move_sums:
                shares = formula.move_sums(grad.to(param.dtype), param, moved, advanced)
                move_sums = move_sums + torch.stack([total(share) for share in shares])
            _write_param(row, moved, _steps(row) + 1.0, active)
            _write_states(rule, row, advanced, active)
            _count(row, active)
        if rule.move_sums:
            _write(table.move_sums[: rule.move_sums], move_sums, active)

    def update_state(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        active = coefficients[0, 0] != 0.0
        for norms, row, grad in _pairs(table, table.norms):
            _, param, u, advanced = _directed(rule, row, grad, coefficients)
            _write(norms, torch.stack([total(param * param), total(u * u)]), active)
            _write_states(rule, row, advanced, active)
            _count(row, active)

    def apply(self, rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
        active = coefficients[0, 0] != 0.0
        for norms, row, _ in _pairs(table, table.norms):
            scalars, param, step = (
                _scalars(rule, row, coefficients),
                _current_param(row),
                _steps(row),
            )
            ratio = formula_of(rule).trust_ratio(scalars, *norms.unbind())
            formula = formula_of(rule)(scalars, step, ratio)
            u = formula.recalled(param, _states(rule, row))
            _write_param(row, formula.moved(param, u), step, active)

    def average(self, table: TensorTable, coefficients: Tensor, average: WeightAverage) -> None:
        active = coefficients[0, 0] != 0.0
        for _, row, _ in _pairs(table, table.rows):
            step, param, old = _steps(row), _current_param(row), row.columns[Column.AVERAGE]
            share = average.share(step)
            start = torch.where(share >= 1.0, param, old.to(param.dtype))
            new = start + share.clamp(max=1.0).to(param.dtype) * (param - start)
            if old.dtype.itemsize < 4:
                order = memory_order(row.param)
                flat = flatten(new.float(), order)
                flat = random.rounded(flat, old.dtype, row.origin, step, of_average=True)
                new = unflatten(flat, row.param, order)
            _write(old, new, active & average.is_due(step))

    def advance_tangents(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        tangents.advance(family, _pairs(table, table.norms), coefficients)

    def own_derivatives(self, family: Family, table: TensorTable, coefficients: Tensor) -> None:
        tangents.own_derivatives(family, _pairs(table, table.norms), coefficients)

    def project(
        self, projection: Projection, table: TensorTable, coefficients: Tensor, sums: Tensor
    ) -> None:
        sums.zero_()
        tangents.project(projection, _pairs(table, sums), coefficients)

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
        scaler, memory = (grad_scale, found_inf), (state, groups, coefficients)
        tune_yellowfin(options, partials, sketches, *scaler, *memory)


def _pairs(table: TensorTable, beside: Iterable[_Beside]) -> Iterator[tuple[_Beside, Row, Tensor]]:
    """(what is beside it, row, gradient) of every tensor that has a gradient in this step.

    One without dimension is seen as a list of one element: torch would work out the product of two
    numbers without dimension, itself and a coefficient, in the coefficient's float64.
    """
    for own, row, grad in zip(beside, table.rows, table.grads):
        if grad is not None:
            yield own, row if grad.dim() else _as_list(row), torch.atleast_1d(grad)


def _as_list(row: Row) -> Row:
    columns = {c: t if c == Column.STEP else t.view(1) for c, t in row.columns.items()}
    return replace(row, columns=columns)


def _scalars(rule: Rule, row: Row, coefficients: Tensor) -> Scalars:
    return dict(zip(rule.fields, coefficients[row.group].unbind()))


def _states(rule: Rule, row: Row) -> list[Tensor]:
    states = [row.columns[Column.state(k)] for k in range(rule.states)]
    if rule.stored.coded:
        states[-1] = random.decoded(states[-1], rule.stored.code_format)
    if rule.stored.in_float8:
        states[0] = float8.numbers(states[0])
    if rule.stored == Stored.MOMENTS:
        states[0] = states[0] * random.unit_of(states[-1])
    return [state.to(_precision(row.param)) for state in states]


def _write_states(rule: Rule, row: Row, states: list[Tensor], active: Tensor) -> None:
    """Writes the advanced states, in this step of the tensor; before it is counted."""
    columns = [row.columns[Column.state(k)] for k in range(rule.states)]
    order, step = memory_order(row.param), _steps(row) + 1.0
    unit: Tensor | float = 1.0
    if rule.stored.coded:
        form = rule.stored.code_format
        codes = random.coded(flatten(states[-1].float(), order), form, row.origin, step)
        states = [*states[:-1], unflatten(codes, row.param, order)]
        if rule.stored == Stored.MOMENTS:
            unit = random.unit_of(random.decoded(codes, form))
    if rule.stored.in_float8:
        numbers = flatten(states[0].float(), order) / unit
        bits = random.in_float8(numbers, row.origin, step)
        states = [unflatten(bits, row.param, order), *states[1:]]
    for old, new in zip(columns, states):
        _write(old, new, active)


def _precision(param: Tensor) -> torch.dtype:
    """In which all is worked out: the state's, but for states of eight bits."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def _steps(row: Row) -> Tensor:
    """Steps the tensor has taken; 0 if nobody counts them."""
    step = row.columns.get(Column.STEP)
    return row.param.new_zeros((), dtype=torch.float64) if step is None else step.double()


def _write(old: Tensor, new: Tensor, active: Tensor) -> None:
    # a skipped step keeps every bit; chosen on the device, so that nothing waits
    old.copy_(torch.where(active, new.to(old.dtype), old))


def _write_param(row: Row, param: Tensor, step: Tensor, active: Tensor) -> None:
    master = row.columns.get(Column.MASTER)
    if master is not None:
        _write(master, param, active)
    elif row.param.dtype.itemsize < 4:
        order = memory_order(row.param)
        flat = random.rounded(flatten(param.float(), order), row.param.dtype, row.origin, step)
        param = unflatten(flat, row.param, order)
    _write(row.param, param, active)


def _count(row: Row, active: Tensor) -> None:
    if Column.STEP in row.columns:
        row.columns[Column.STEP] += active.float()


def _directed(
    rule: Rule, row: Row, grad: Tensor, coefficients: Tensor
) -> tuple[Formula, Tensor, Tensor, list[Tensor]]:
    """(formula, parameter, u, advanced state) of a tensor in this step; nothing is written."""
    param, step = _current_param(row), _steps(row) + 1.0
    formula = formula_of(rule)(_scalars(rule, row, coefficients), step, torch.ones_like(step))
    states = _states(rule, row)
    u, *advanced = formula.direction(grad.to(param.dtype), param, states)
    return formula, param, u, advanced


def _current_param(row: Row) -> Tensor:
    """The parameter in the state's precision: its master, unless the user has written to it."""
    param, master = row.param, row.columns.get(Column.MASTER)
    if master is None:
        return param.to(_precision(param))
    return torch.where(master.to(param.dtype) == param, master, param.to(master.dtype))
