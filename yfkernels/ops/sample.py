"""Coordinates of a model drawn at random, to measure at little cost what concerns them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LINE = 16  # coordinates that lie together: a cache line of float32


class Sample:
    """Lines of 16 consecutive coordinates, one at random from each of equally long stretches.

    So coordinates are distinct and in the order of memory, however large the model, and cost one
    miss of the cache a line. All are drawn if there are few. What fills no line, such as the last
    elements of a tensor, is drawn only then, or where lines are too few.

    Args:
        flats: the flat tensors to draw from.
        coordinates: how many to draw; fewer than 16 short of it.
        seed: determines which.

    Attributes:
        resolution: relative rounding error of each coordinate's dtype, of shape (drawn,).
        dtype: float64 if one of the tensors is, else float32.
    """

    def __init__(self, flats: Sequence[Tensor], coordinates: int, seed: int) -> None:
        total = sum(flat.numel() for flat in flats)
        lines = sum(flat.numel() // _LINE for flat in flats)
        self._width = _LINE if total > coordinates and lines * _LINE >= coordinates >= _LINE else 1
        places = sum(flat.numel() // self._width for flat in flats)
        drawn = _stratified(places, coordinates // self._width, seed)
        self._rows: list[Tensor] = []
        start = 0
        for flat in flats:
            end = start + flat.numel() // self._width
            inside = drawn[(drawn >= start) & (drawn < end)]
            self._rows.append((inside - start).to(flat.device))
            start = end
        self.dtype = torch.float64 if torch.float64 in {f.dtype for f in flats} else torch.float32
        counts = [len(rows) * self._width for rows in self._rows]
        eps = [torch.finfo(flat.dtype).eps for flat in flats]
        device = flats[0].device
        self.resolution = torch.cat(
            [torch.full((count,), each, device=device) for count, each in zip(counts, eps)]
        ).to(self.dtype)

    def of(self, flats: Sequence[Tensor]) -> Tensor:
        """A copy of the drawn coordinates, of shape (drawn,), on the first device."""
        return self.gathered(self.lines(flats))

    def lines(self, flats: Sequence[Tensor]) -> list[Tensor]:
        """Views of tensors for `gathered`, to be kept where the same tensors are asked often."""
        whole = (flat[: len(flat) - len(flat) % self._width] for flat in flats)
        return [flat.view(-1, self._width) for flat in whole]

    def gathered(self, lines: Sequence[Tensor]) -> Tensor:
        """As `of`."""
        pairs = zip(lines, self._rows)
        parts = [each.index_select(0, rows) for each, rows in pairs if len(rows)]
        device = lines[0].device
        return torch.cat([part.to(device, self.dtype) for part in parts]).view(-1)


def _stratified(places: int, wanted: int, seed: int) -> Tensor:
    """One place at random from each of `wanted` stretches, or all places if there are fewer."""
    if places <= wanted:
        return torch.arange(places, device="cpu")
    generator = torch.Generator("cpu").manual_seed(seed)
    ends = torch.arange(wanted + 1, device="cpu") * places // wanted
    starts, lengths = ends[:-1], ends.diff()
    within = torch.rand(wanted, generator=generator, dtype=torch.float64, device="cpu")
    return starts + torch.minimum((within * lengths).long(), lengths - 1)
