"""Coordinates of a model drawn at random, to measure at little cost what concerns them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_RUN = 256  # coordinates that lie together: a copy of so many costs little more than one of few
_FEWEST = 64  # runs, in which what is near each other and alike does not count for too much


class Sample:
    """Runs of consecutive coordinates, one at random from each of equally long stretches.

    A tensor is cut into runs of up to 256 elements, the last one shorter, and of the runs of all
    tensors as large a share is drawn as the coordinates are of the model's. So coordinates are
    distinct and in the order of memory, however large the model. All are drawn if there are few.

    Args:
        flats: the flat tensors to draw from.
        coordinates: how many to draw, give or take what the last runs are short of.
        seed: determines which.

    Attributes:
        resolution: relative rounding error of each coordinate's dtype, of shape (drawn,).
        dtype: float64 if one of the tensors is, else float32.
    """

    def __init__(self, flats: Sequence[Tensor], coordinates: int, seed: int) -> None:
        lengths = [flat.numel() for flat in flats]
        total = sum(lengths)
        self._runs: list[tuple[int, int, int]]  # tensor, first element, length
        if total <= coordinates:
            self._runs = [(tensor, 0, length) for tensor, length in enumerate(lengths)]
        else:
            run = max(1, min(_RUN, coordinates // _FEWEST))
            self._runs = _drawn(lengths, run, coordinates / total, seed)
        self.dtype = torch.float64 if torch.float64 in {f.dtype for f in flats} else torch.float32
        eps = [torch.finfo(flat.dtype).eps for flat in flats]
        self.resolution = torch.cat(
            [
                torch.full((length,), eps[tensor], dtype=self.dtype, device=flats[0].device)
                for tensor, _, length in self._runs
            ]
        )

    def of(self, flats: Sequence[Tensor]) -> Tensor:
        """A copy of the drawn coordinates, of shape (drawn,), on the first device."""
        return self.gathered(self.views(flats), torch.empty_like(self.resolution))

    def views(self, flats: Sequence[Tensor]) -> list[Tensor]:
        """Of tensors for `gathered`, to be kept where the same tensors are asked often."""
        return [flats[tensor].narrow(0, first, length) for tensor, first, length in self._runs]

    def gathered(self, views: Sequence[Tensor], out: Tensor) -> Tensor:
        """As `of`, into `out`, which has the shape and dtype of `resolution`."""
        if all(view.dtype == out.dtype and view.device == out.device for view in views):
            return torch.cat(list(views), out=out)
        return torch.cat([view.to(out.device, out.dtype) for view in views], out=out)


def _drawn(lengths: Sequence[int], run: int, share: float, seed: int) -> list[tuple[int, int, int]]:
    counts = [-(-length // run) for length in lengths]
    drawn = _stratified(sum(counts), max(1, round(share * sum(counts))), seed)
    runs, start = [], 0
    for tensor, (length, count) in enumerate(zip(lengths, counts)):
        inside = drawn[(drawn >= start) & (drawn < start + count)] - start
        runs += [(tensor, k * run, min(run, length - k * run)) for k in inside.tolist()]
        start += count
    return runs


def _stratified(places: int, wanted: int, seed: int) -> Tensor:
    """One place at random from each of `wanted` stretches."""
    generator = torch.Generator("cpu").manual_seed(seed)
    ends = torch.arange(wanted + 1, device="cpu") * places // wanted
    starts, lengths = ends[:-1], ends.diff()
    within = torch.rand(wanted, generator=generator, dtype=torch.float64, device="cpu")
    return starts + torch.minimum((within * lengths).long(), lengths - 1)
