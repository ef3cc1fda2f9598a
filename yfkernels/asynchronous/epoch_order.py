"""The order of the samples in an epoch, which depends only on a seed and the epoch."""

from __future__ import annotations

from functools import lru_cache

import torch


class EpochOrder:
    """A permutation for every epoch.

    Args:
        samples: number of samples.
        seed: determines the permutations; None for the order of the data.
    """

    def __init__(self, samples: int, seed: int | None) -> None:
        self._samples = samples
        self.seed = seed
        self.of = lru_cache(maxsize=2)(self._draw)  # late batches are of the epoch before

    def _draw(self, epoch: int) -> list[int]:
        if self.seed is None:
            return list(range(self._samples))
        generator = torch.Generator("cpu").manual_seed(self.seed + epoch)
        order: list[int] = torch.randperm(self._samples, generator=generator, device="cpu").tolist()
        return order
