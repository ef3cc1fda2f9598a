"""Plain torch: the same operations tensor by tensor, for anything the fused backends do not take.

It is also the readable statement of what the kernels do. Works in the dtype of the state, so
float64 parameters are measured and moved in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.memory import flatten, memory_order
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.torch.tuner import yellowfin_tune
from yfkernels.ops.tuner import COEFFICIENT_FIELDS, TILE

__all__ = [
    "unusable",
    "upload_grads",
    "write_words",
    "yellowfin_apply",
    "yellowfin_measure",
    "yellowfin_tune",
]


_PIECE = 16384  # elements; torch sums up to 32768 on one thread


def unusable(device_type: str) -> None:
    """This backend serves every device."""
    return None


def upload_grads(table: TensorTable, pointers: list[int]) -> None:
    """Nothing to do: gradients are used as tensors."""


def write_words(target: Tensor, words: list[int]) -> None:
    """Writes int64 words (or the bits of doubles) to a one-dimensional tensor."""
    target.view(torch.int64).copy_(torch.tensor(words, dtype=torch.int64))


def _sum(x: Tensor) -> Tensor:
    """Σx in float64, in pieces that torch never shares out: the same on any number of threads."""
    x = x.reshape(-1)
    whole = x.numel() // _PIECE * _PIECE
    total = x[whole:].sum(dtype=torch.float64)
    if whole:
        total = total + _sum(x[:whole].view(-1, _PIECE).sum(1, dtype=torch.float64))
    return total


def _signs(origin: int, count: int, device: torch.device) -> Tensor:
    """The sketch's signs, +1.0 or -1.0, of elements origin .. origin + count - 1 of the model."""
    mask = 0xFFFFFFFF
    element = torch.arange(origin, origin + count, dtype=torch.int64, device=device)
    block = element >> 5
    x = (block ^ (block >> 32)) & mask
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & mask
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & mask
    x = x ^ (x >> 16)
    return 1.0 - 2.0 * ((x >> (element & 31)) & 1).double()


def _sketch(row: Row, grad: Tensor) -> Tensor:
    """[TILE] float64: signed sums of the gradient's elements by index mod TILE."""
    order = memory_order(row.param)
    signed = flatten(grad, order).double() * _signs(row.origin, grad.numel(), grad.device)
    shift = row.origin % TILE
    size = shift + grad.numel()
    padded = torch.nn.functional.pad(signed, (shift, -size % TILE))
    return padded.view(-1, TILE).sum(0)


def yellowfin_measure(
    table: TensorTable, partials: Tensor, sketches: Tensor | None, nonzero: bool = True
) -> None:
    """One pass over g (and gbar): sums of squares and products into the table's one slot."""
    partials.zero_()
    if sketches is not None:
        sketches.zero_()
    for row, grad in table.pairs():
        average = row.columns.get(Column.GRAD_AVG)
        g = grad.to(row.columns[Column.MOMENTUM].dtype)
        zero = g.new_zeros((), dtype=torch.float64)
        sums = [
            _sum(g * g),
            zero if average is None else _sum(average * g),
            zero if average is None else _sum(average * average),
            torch.count_nonzero(g).double(),
            torch.full_like(zero, g.numel()),
        ]
        partials[0] += torch.stack(sums)
        if sketches is not None:
            sketches[0] += _sketch(row, grad).to(sketches.dtype)


def yellowfin_apply(table: TensorTable, coefficients: Tensor) -> None:
    """One pass over all tensors: gradient average, momentum and parameters advance."""
    active = coefficients[0, 0] != 0.0
    for row, grad in table.pairs():
        c = dict(zip(COEFFICIENT_FIELDS, coefficients[row.group].unbind()))
        velocity = row.columns[Column.MOMENTUM]
        param = _current_param(row)
        g = grad.to(velocity.dtype)

        d = c["grad_scale"] * g + c["coupled_decay"] * param
        moved = c["momentum"] * velocity + c["velocity_gain"] * d
        param = c["param_keep"] * param + c["param_gain"] * moved

        updates = {Column.PARAM: param, Column.MOMENTUM: c["velocity_keep"] * moved}
        if Column.MASTER in row.columns:
            updates[Column.MASTER] = param
        if Column.GRAD_AVG in row.columns:
            average = row.columns[Column.GRAD_AVG]
            updates[Column.GRAD_AVG] = c["average_decay"] * average + c["average_gain"] * g
        for column, value in updates.items():
            old = row.columns[column]
            # a skipped step keeps every bit; chosen on the device, so that nothing waits
            old.copy_(torch.where(active, value.to(old.dtype), old))


def _current_param(row: Row) -> Tensor:
    """The parameter in the state's precision: its master, unless the user has written to it."""
    param, master = row.param, row.columns.get(Column.MASTER)
    if master is None:
        return param
    return torch.where(master.to(param.dtype) == param, master, param.to(master.dtype))
