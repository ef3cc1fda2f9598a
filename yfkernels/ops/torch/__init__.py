"""Plain torch: the same operations tensor by tensor, for anything the fused backends do not take.

It is also the readable statement of what the kernels do. Works in the dtype of the state, so
float64 parameters are measured and moved in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from yfkernels.ops.memory import flatten, memory_order, unflatten
from yfkernels.ops.rules import Measure, Rule
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.torch import random
from yfkernels.ops.torch.rules import Formula, Scalars, formula_of
from yfkernels.ops.torch.tuner import yellowfin_tune
from yfkernels.ops.tuner import MEASURED, TILE

__all__ = [
    "apply",
    "decide",
    "measure",
    "measure_then_decide",
    "sum_of_squares",
    "unusable",
    "update",
    "update_state",
    "update_state_then_apply",
    "upload",
    "write_words",
    "yellowfin_tune",
]


_PIECE = 16384  # elements; torch sums up to 32768 on one thread
_PART = 256 * _PIECE


def unusable(device_type: str) -> None:
    """This backend serves every device."""
    return None


def upload(table: TensorTable, column: Column, pointers: list[int]) -> None:
    """Nothing to do: tensors are used as they are."""


def write_words(target: Tensor, words: list[int]) -> None:
    """Writes int64 words (or the bits of doubles) to a one-dimensional tensor."""
    target.view(torch.int64).copy_(torch.tensor(words, dtype=torch.int64, device="cpu"))


def _sum(x: Tensor) -> Tensor:
    """Σx in float64, in pieces that torch never shares out: the same on any number of threads."""
    x = x.reshape(-1)
    whole = x.numel() // _PIECE * _PIECE
    total = x[whole:].sum(dtype=torch.float64)
    if whole:
        total = total + _sum(x[:whole].view(-1, _PIECE).sum(1, dtype=torch.float64))
    return total


def sum_of_squares(x: Tensor) -> Tensor:
    """Σx² in float64, of a tensor of any dtype; in parts, so that it takes little memory."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part in flatten(x, memory_order(x)).split(_PART):
        full = part if part.dtype == torch.float64 else part.float()
        total = total + _sum(full * full)
    return total


def _sketch(row: Row, grad: Tensor) -> Tensor:
    """[TILE] float64: signed sums of the gradient's elements by index mod TILE."""
    order = memory_order(row.param)
    signs = random.signs(row.origin, grad.numel(), grad.device)
    signed = flatten(grad, order).double() * signs
    shift = row.origin % TILE
    size = shift + grad.numel()
    padded = torch.nn.functional.pad(signed, (shift, -size % TILE))
    return padded.view(-1, TILE).sum(0)


def measure(
    table: TensorTable,
    what: Measure,
    partials: Tensor,
    sketches: Tensor | None = None,
    nonzero: bool = False,
) -> None:
    """One pass over g (and gbar): sums of squares and products into the table's one slot."""
    # added up in new tensors: a wrapper subclass may carry out what is in place more than once
    total = torch.zeros_like(partials[0, : len(MEASURED)])
    sketch = None if sketches is None else torch.zeros_like(sketches[0])
    for _, row, grad in _pairs(table):
        g = grad.to(row.columns[Column.STATE].dtype)
        dot = avg_sq = g.new_zeros((), dtype=torch.float64)
        if what == Measure.AVERAGE:
            average = row.columns[Column.GRAD_AVG]
            dot, avg_sq = _sum(average * g), _sum(average * average)
        count = torch.full_like(dot, g.numel())
        sums = torch.stack([_sum(g * g), dot, avg_sq, g.count_nonzero().double(), count])
        total = total + sums
        if sketch is not None:
            sketch = sketch + _sketch(row, grad).to(sketch.dtype)
    partials[0, : len(MEASURED)].copy_(total)
    if sketches is not None and sketch is not None:
        sketches[0].copy_(sketch)


def decide(
    partials: Tensor | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    state: Tensor,
    coefficients: Tensor,
) -> None:
    """Adds up the slots and decides on the step where `state` lives; csrc/gate.h line by line."""
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
    measure(table, Measure.NORM, own)
    decide(partials, grad_scale, found_inf, state, coefficients)


def _pairs(table: TensorTable) -> Iterator[tuple[Tensor, Row, Tensor]]:
    """(its norms, row, gradient) of every tensor that has a gradient in this step.

    One without dimension is seen as a list of one element: torch would work out the product of two
    numbers without dimension, itself and a coefficient, in the coefficient's float64.
    """
    for norms, row, grad in zip(table.norms, table.rows, table.grads):
        if grad is not None:
            yield norms, row if grad.dim() else _as_list(row), torch.atleast_1d(grad)


def _as_list(row: Row) -> Row:
    columns = {c: t if c == Column.STEP else t.view(1) for c, t in row.columns.items()}
    return replace(row, columns=columns)


def _scalars(rule: Rule, row: Row, coefficients: Tensor) -> Scalars:
    return dict(zip(rule.fields, coefficients[row.group].unbind()))


def _states(rule: Rule, row: Row) -> list[Tensor]:
    states = [row.columns[Column(Column.STATE + k)] for k in range(rule.states)]
    if rule.coded:
        states[-1] = random.decoded(states[-1]).to(states[0].dtype)
    return states


def _write_states(rule: Rule, row: Row, states: list[Tensor], active: Tensor) -> None:
    """Writes the advanced states, in this step of the tensor; before it is counted."""
    columns = [row.columns[Column(Column.STATE + k)] for k in range(rule.states)]
    if rule.coded:
        order = memory_order(row.param)
        codes = random.coded(flatten(states[-1].float(), order), row.origin, _steps(row) + 1.0)
        states = [*states[:-1], unflatten(codes, row.param, order)]
    for old, new in zip(columns, states):
        _write(old, new, active)


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
    u, *advanced = formula.direction(grad.to(states[0].dtype), param, states)
    return formula, param, u, advanced


def update(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """One pass over all tensors: state and parameters advance, and `table.move_sums` if any."""
    active = coefficients[0, 0] != 0.0
    move_sums = torch.zeros_like(table.move_sums[: rule.move_sums])
    for _, row, grad in _pairs(table):
        formula, param, u, advanced = _directed(rule, row, grad, coefficients)
        moved = formula.moved(param, u)
        if rule.move_sums:
            shares = formula.move_sums(grad.to(param.dtype), param, moved, advanced)
            move_sums = move_sums + torch.stack([_sum(share) for share in shares])
        _write_param(row, moved, _steps(row) + 1.0, active)
        _write_states(rule, row, advanced, active)
        _count(row, active)
    if rule.move_sums:
        _write(table.move_sums[: rule.move_sums], move_sums, active)


def update_state(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """The first of two passes: state advances, and the norms of p and u go to `table.norms`."""
    active = coefficients[0, 0] != 0.0
    for norms, row, grad in _pairs(table):
        _, param, u, advanced = _directed(rule, row, grad, coefficients)
        _write(norms, torch.stack([_sum(param * param), _sum(u * u)]), active)
        _write_states(rule, row, advanced, active)
        _count(row, active)


def apply(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """The second of two passes: parameters move by a length that hangs on `table.norms`."""
    active = coefficients[0, 0] != 0.0
    for norms, row, _ in _pairs(table):
        scalars, param, step = _scalars(rule, row, coefficients), _current_param(row), _steps(row)
        ratio = formula_of(rule).trust_ratio(scalars, *norms.unbind())
        formula = formula_of(rule)(scalars, step, ratio)
        u = formula.recalled(param, _states(rule, row))
        _write_param(row, formula.moved(param, u), step, active)


def update_state_then_apply(rule: Rule, table: TensorTable, coefficients: Tensor) -> None:
    """Both passes, where no other process has parts of the tensors."""
    update_state(rule, table, coefficients)
    apply(rule, table, coefficients)


def _current_param(row: Row) -> Tensor:
    """The parameter in the state's precision: its master, unless the user has written to it."""
    param, master = row.param, row.columns.get(Column.MASTER)
    if master is None:
        return param.to(row.columns[Column.STATE].dtype)
    return torch.where(master.to(param.dtype) == param, master, param.to(master.dtype))
