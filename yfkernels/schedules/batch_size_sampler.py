"""Batches of indices whose size may change while training."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from yfkernels._checks import is_count, require

_SAVED = ("epoch", "position", "seed", "batch_size", "split")


class BatchSizeSampler(Sampler[list[int]]):
    """Batches of indices whose size may change at any time; a DataLoader's `batch_sampler`.

    Set `batch_size`, or let a `MultistageSchedule` set it, and the next batch that is drawn has
    that size, even in the middle of an epoch. A DataLoader with workers draws
    `num_workers * prefetch_factor` batches ahead.

    Each pass over the sampler is one epoch. Epochs are counted automatically; `set_epoch` selects
    one. The order depends only on the seed and the epoch.

    Args:
        data_source: the dataset; only its length is used.
        batch_size: samples in a batch of one replica, >= 1.
        shuffle: whether to draw a new order in every epoch.
        drop_last: drop the samples that do not fill a last batch or do not divide evenly among the
            replicas. False: the last batch may be smaller, and the replicas' shares are made equal
            by repeating the first samples of the epoch.
        seed: determines the orders; the same on all replicas.
        generator: draws a seed that replaces `seed`.
        num_replicas: number of processes that share the data.
        rank: rank of this process among them.

    Raises:
        ValueError: an argument out of its range; no data.
        TypeError: a data_source without a length, or a DataLoader.

    Example:
        >>> batches = BatchSizeSampler(range(100), batch_size=40)
        >>> loader = torch.utils.data.DataLoader(range(100), batch_sampler=batches)
        >>> [len(batch) for batch in loader]
        [40, 40, 20]
        >>> batches.batch_size = 50
        >>> [len(batch) for batch in loader]
        [50, 50]
    """

    def __init__(
        self,
        data_source: Sized,
        batch_size: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        generator: torch.Generator | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if isinstance(data_source, DataLoader):
            raise TypeError("Invalid data_source type: DataLoader; give the dataset")
        if not isinstance(data_source, Sized):
            kind = type(data_source).__name__
            raise TypeError(f"Invalid data_source type: {kind}; data_source must have a length")
        self._samples = len(data_source)
        require(self._samples >= 1, "data_source", data_source, "of at least one sample")
        require(is_count(num_replicas), "num_replicas", num_replicas, "an integer >= 1")
        in_range = isinstance(rank, int) and 0 <= rank < num_replicas
        require(in_range, "rank", rank, f"an integer in [0, {num_replicas})")
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._shuffle = shuffle
        if generator is not None:
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        self._seed = seed
        self._num_replicas = num_replicas
        self._rank = rank
        self._begin(epoch=0, position=0)

    def _begin(self, epoch: int, position: int) -> None:
        self._epoch = epoch
        self._position = position  # where the pass begins in this replica's share
        self._ends: list[int] | None = None  # ends of the batches drawn; None before the pass
        self._exhausted = False

    @property
    def batch_size(self) -> int:
        """Samples in the next batch that is drawn."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        require(is_count(value), "batch_size", value, "an integer >= 1")
        self._batch_size = value

    @property
    def _share(self) -> int:
        whole = self._samples // self._num_replicas
        return whole if self.drop_last else -(-self._samples // self._num_replicas)

    def __len__(self) -> int:
        """Number of batches in the next pass at the current batch size."""
        rest = self._share - (self._position if self._ends is None else 0)
        return rest // self.batch_size if self.drop_last else -(-rest // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that the pass begins with its first batch: a DataLoader with workers asks
        # for two iterators and draws from only one of them.
        if self._ends is not None:
            self._begin(self._epoch + 1, position=0)
        ends: list[int] = []
        self._ends = ends
        order = self._order()
        end = self._position
        while end < len(order):
            start, end = end, min(end + self.batch_size, len(order))
            if self.drop_last and end - start < self.batch_size:
                break
            ends.append(end)
            yield order[start:end].tolist()
        if ends is self._ends:  # and no other pass has begun meanwhile
            self._exhausted = True

    def _order(self) -> Tensor:
        """This replica's share of the epoch, in order."""
        order = torch.arange(self._samples, device="cpu")
        if self._shuffle:
            generator = torch.Generator("cpu").manual_seed(self._seed + self._epoch)
            order = torch.randperm(self._samples, generator=generator, device="cpu")
        share = torch.arange(self._share, device="cpu") * self._num_replicas + self._rank
        return order[share % self._samples]

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch of the next pass; after load_state_dict(), the rest of that epoch."""
        if epoch != self._epoch or self._ends is not None:
            self._begin(epoch, position=0)

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """The position in the data: the next pass after load_state_dict() continues there.

        Args:
            batches: number of batches of the current pass that have been trained on. Needed in the
                middle of an epoch if the DataLoader has workers, because they draw ahead. None for
                the number of batches drawn.

        Raises:
            ValueError: more batches than were drawn.
        """
        ends = self._ends or []
        drawn = len(ends)
        if batches is not None and not 0 <= batches <= drawn:
            raise ValueError(f"Invalid batches value: {batches!r}; the pass has drawn {drawn}")
        epoch, position = self._epoch, self._position
        if batches is None and self._exhausted:
            epoch, position = epoch + 1, 0
        elif done := ends[:batches]:
            position = done[-1]
        return {
            "epoch": epoch,
            "position": position,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "split": self._split(),
        }

    def _split(self) -> list[int]:
        return [self._samples, self._num_replicas, self._share]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where state_dict() was taken; no sample is lost or repeated.

        Raises:
            ValueError: the data or the number of replicas differs, or an entry is missing.
        """
        if missing := [name for name in _SAVED if name not in state_dict]:
            lacking = ", ".join(missing)
            raise ValueError(
                f"Invalid state_dict: it lacks {lacking}; give what state_dict() returned"
            )
        if state_dict["split"] != self._split():
            raise ValueError(
                "Invalid state_dict: it was saved with [samples, num_replicas, samples a replica] "
                f"{state_dict['split']}, but this sampler has {self._split()}; build it with the "
                "same data, num_replicas and drop_last, or begin a new epoch"
            )
        self.batch_size = state_dict["batch_size"]
        self._seed = state_dict["seed"]
        self._begin(state_dict["epoch"], state_dict["position"])
