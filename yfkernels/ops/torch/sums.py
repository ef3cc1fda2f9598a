"""Sums in float64 that come out the same on any number of threads."""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.ops.constants import TILE
from yfkernels.ops.memory import flatten, memory_order
from yfkernels.ops.table import Row
from yfkernels.ops.torch import random

_PIECE = 16384  # elements; torch sums up to 32768 on one thread
_PART = 256 * _PIECE


def total(x: Tensor) -> Tensor:
    """Σx in float64, in pieces that torch never shares out: the same on any number of threads."""
    x = x.reshape(-1)
    whole = x.numel() // _PIECE * _PIECE
    found = x[whole:].sum(dtype=torch.float64)
    if whole:
        found = found + total(x[:whole].view(-1, _PIECE).sum(1, dtype=torch.float64))
    return found


def sum_of_squares(x: Tensor) -> Tensor:
    """Σx² in float64, of a tensor of any dtype; in parts, so that it takes little memory."""
    squares = torch.zeros((), dtype=torch.float64, device=x.device)
    for part in flatten(x, memory_order(x)).split(_PART):
        full = part if part.dtype == torch.float64 else part.float()
        squares = squares + total(full * full)
    return squares


def sketch(row: Row, grad: Tensor) -> Tensor:
    """[TILE] float64: signed sums of the gradient's elements by index mod TILE."""
    order = memory_order(row.param)
    signs = random.signs(row.origin, grad.numel(), grad.device)
    signed = flatten(grad, order).double() * signs
    shift = row.origin % TILE
    size = shift + grad.numel()
    padded = torch.nn.functional.pad(signed, (shift, -size % TILE))
    return padded.view(-1, TILE).sum(0)
