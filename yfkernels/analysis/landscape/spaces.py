"""The spaces in which Keskar's metric looks for the highest loss, as flat float64 arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor

from yfkernels.analysis.landscape.vectors import Draws, Vector, kept_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]
else:
    Array: TypeAlias = Any

_ROWS = 8192  # of A at a time: 3 MB with 100 columns


class Space(Protocol):
    """The displacements A z."""

    def coordinates(self, vector: Sequence[Tensor]) -> Array:
        """A⁺ times a vector, A⁺ being the pseudo-inverse."""

    def displacement(self, z: Array) -> Vector:
        """A z."""

    def slopes(self, grads: Sequence[Tensor]) -> Array:
        """Aᵀ g: the gradient with respect to z."""


class FullSpace:
    """A = I."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params = params

    def coordinates(self, vector: Sequence[Tensor]) -> Array:
        return self.slopes(vector)

    def displacement(self, z: Array) -> Vector:
        parts = torch.from_numpy(z).split([p.numel() for p in self._params])
        return [
            part.view(p.shape).to(p.device, kept_in(p.dtype))
            for part, p in zip(parts, self._params)
        ]

    def slopes(self, grads: Sequence[Tensor]) -> Array:
        flat: Array = torch.cat([g.detach().flatten().double().cpu() for g in grads]).numpy()
        return flat


class RandomSubspace:
    """A has independent columns from N(0, 1).

    A is never held: its rows are drawn anew, a few at a time, whenever they are needed.

    Args:
        params: give the shapes, dtypes and devices.
        dimensions: columns of A.
        seed: of A.
    """

    def __init__(self, params: Sequence[Tensor], dimensions: int, seed: int) -> None:
        self._params, self._dimensions, self._seed = params, dimensions, seed

    def coordinates(self, vector: Sequence[Tensor]) -> Array:
        """(AᵀA)⁺ Aᵀ x"""
        gram = torch.zeros(self._dimensions, self._dimensions, dtype=torch.float64)
        for _, _, rows in self._blocks():
            gram += (rows.mT @ rows).cpu().double()
        along = torch.from_numpy(self.slopes(vector))
        found: Array = (torch.linalg.pinv(gram, hermitian=True) @ along).numpy()
        return found

    def displacement(self, z: Array) -> Vector:
        moves = [
            torch.empty(p.numel(), device=p.device, dtype=kept_in(p.dtype)) for p in self._params
        ]
        for index, chunk, rows in self._blocks():
            moves[index][chunk] = rows @ torch.from_numpy(z).to(rows)
        return [move.view(p.shape) for move, p in zip(moves, self._params)]

    def slopes(self, grads: Sequence[Tensor]) -> Array:
        total = torch.zeros(self._dimensions, dtype=torch.float64)
        for index, chunk, rows in self._blocks():
            g = grads[index].detach().flatten()[chunk].to(rows)
            total += (rows.mT @ g).cpu().double()
        found: Array = total.numpy()
        return found

    def _blocks(self) -> Iterator[tuple[int, slice, Tensor]]:
        """(parameter, its elements, their rows of A)"""
        draws = Draws(self._params, self._seed)
        for index, p in enumerate(self._params):
            for first in range(0, p.numel(), _ROWS):
                chunk = slice(first, min(first + _ROWS, p.numel()))
                yield index, chunk, draws.rows(index, (chunk.stop - chunk.start, self._dimensions))
