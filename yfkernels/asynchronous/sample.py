"""Coordinates of a model drawn at random, to measure at little cost what concerns them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Sample:
    """One coordinate at random from each of equally long stretches, or all if there are few.

    So coordinates are distinct and in the order of memory, however large the model.

    Args:
        flats: the flat tensors to draw from.
        coordinates: how many to draw.
        seed: determines which.

    Attributes:
        resolution: relative rounding error of each coordinate's dtype; float64, of shape (drawn,).
    """

    def __init__(self, flats: Sequence[Tensor], coordinates: int, seed: int) -> None:
        total = sum(flat.numel() for flat in flats)
        drawn = torch.arange(min(total, coordinates), dtype=torch.float64, device="cpu")
        if total > coordinates:
            generator = torch.Generator("cpu").manual_seed(seed)
            within = torch.rand(coordinates, generator=generator, dtype=torch.float64, device="cpu")
            drawn = (drawn + within) * (total / coordinates)
        indices = drawn.long().clamp_(max=total - 1)  # against rounding up at the very end
        self._indices: list[Tensor] = []
        start = 0
        for flat in flats:
            inside = (indices >= start) & (indices < start + flat.numel())
            self._indices.append((indices[inside] - start).to(flat.device))
            start += flat.numel()
        resolutions = [torch.full_like(flat[:1], torch.finfo(flat.dtype).eps) for flat in flats]
        self.resolution = _joined(
            [each.expand(len(index)) for each, index in zip(resolutions, self._indices)]
        )

    def of(self, flats: Sequence[Tensor]) -> Tensor:
        """A copy of the drawn coordinates in float64, of shape (drawn,), on the first device."""
        chosen = [flat.index_select(0, index) for flat, index in zip(flats, self._indices)]
        return _joined(chosen)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.to(parts[0].device, torch.float64) for part in parts])
