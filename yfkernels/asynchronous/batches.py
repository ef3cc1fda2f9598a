"""The batches of an epoch, leased to workers so that every sample counts once, whoever dies."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from yfkernels._checks import check_positive, is_count, require
from yfkernels.asynchronous.epoch_order import EpochOrder

_SAVED = ("samples", "seed", "batch_size", "epoch", "position", "number", "due")


@dataclass(frozen=True)
class Lease:
    """A batch lent to one worker.

    Attributes:
        number: what a push for this batch must name. No number is given twice.
        epoch: the epoch the batch belongs to, from 0.
        indices: the samples.
        deadline: when the batch may be lent to another worker, in seconds of the clock.
    """

    number: int
    epoch: int
    indices: list[int]
    deadline: float


class _Stretch(NamedTuple):
    """A part of the order of one epoch."""

    epoch: int
    start: int
    stop: int


class _Loan(NamedTuple):
    stretch: _Stretch
    worker: str
    deadline: float


class Batches:
    """Owns the order of every epoch and lends its batches, each to one worker at a time.

    A batch whose worker is lost, or that is not answered in time, is lent again under a new number;
    the old number is then closed. Nobody waits at the end of an epoch: the next one begins while
    the last batches of this one are out. The order depends only on the seed and the epoch.

    Args:
        samples: number of samples in the data, >= 1.
        batch_size: samples in the batches not yet lent, >= 1. The last one of an epoch may be
            smaller. May be assigned at any time.
        epochs: number of epochs, >= 1. None for no end.
        shuffle: whether to draw a new order in every epoch.
        seed: determines the orders.
        patience: seconds that a worker has for a batch. A late answer still counts if the batch has
            not been lent again.
        clock: gives the time in seconds; must not go back.

    Raises:
        TypeError, ValueError: an argument out of its range.

    Example:
        >>> batches = Batches(5, 3, epochs=1, shuffle=False)
        >>> lost, kept = batches.lend("ada"), batches.lend("bob")
        >>> batches.take_back_all("ada")
        >>> again = batches.lend("bob")
        >>> again.indices == lost.indices, batches.is_open(lost.number)
        (True, False)
        >>> batches.close(kept.number)
        >>> batches.close(again.number)
        >>> batches.finished
        True
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        *,
        epochs: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        patience: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        require(is_count(samples), "samples", samples, "an integer >= 1")
        need = "an integer >= 1, or None for no end"
        require(epochs is None or is_count(epochs), "epochs", epochs, need)
        check_positive("patience", patience)
        self.batch_size = batch_size
        self._samples = samples
        self._epochs = epochs
        self._patience = float(patience)
        self._clock = clock
        self._next = _Stretch(0, 0, 0)  # the end of what was lent for the first time
        self._number = 0
        self._open: dict[int, _Loan] = {}  # the oldest first
        self._due: deque[_Stretch] = deque()  # to be lent again
        self._order = EpochOrder(samples, seed if shuffle else None)

    @property
    def batch_size(self) -> int:
        """Samples in the next batch that is lent for the first time."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        require(is_count(value), "batch_size", value, "an integer >= 1")
        self._batch_size = value

    @property
    def epochs_done(self) -> int:
        """Number of epochs of which every batch is answered."""
        open_epochs = [loan.stretch.epoch for loan in self._open.values()]
        due_epochs = [stretch.epoch for stretch in self._due]
        return min([self._next_epoch(), *open_epochs, *due_epochs])

    @property
    def finished(self) -> bool:
        """Whether every batch of every epoch is answered."""
        return self.epochs_done == self._epochs

    def lend(self, worker: str = "") -> Lease | None:
        """Lends a batch; None if none is left, or the last ones are out and not late yet.

        Batches to be lent again go first.

        Args:
            worker: whom `take_back_all` will name if it dies.
        """
        stretch = self._again() or self._new()
        if stretch is None:
            return None
        number, self._number = self._number, self._number + 1
        self._open[number] = loan = _Loan(stretch, worker, self._clock() + self._patience)
        indices = self._order.of(stretch.epoch)[stretch.start : stretch.stop]
        return Lease(number, stretch.epoch, list(indices), loan.deadline)

    def is_open(self, number: int) -> bool:
        """Whether a push for this lease may still be applied."""
        return number in self._open

    def epoch_of(self, number: int) -> int | None:
        """The epoch of a lease's batch; None if the lease is not open."""
        return self._open[number].stretch.epoch if self.is_open(number) else None

    def close(self, number: int) -> None:
        """The batch is answered, or given up: it is not lent again in this epoch.

        Raises:
            ValueError: the lease is not open.
        """
        self._ended(number)

    def take_back(self, number: int) -> None:
        """Closes a lease whose batch is to be lent again.

        Raises:
            ValueError: the lease is not open.
        """
        self._due.append(self._ended(number))

    def take_back_all(self, worker: str) -> None:
        """Takes back what a worker has: it is dead."""
        for number in [n for n, loan in self._open.items() if loan.worker == worker]:
            self.take_back(number)

    def _ended(self, number: int) -> _Stretch:
        require(self.is_open(number), "number", number, "that of an open lease")
        return self._open.pop(number).stretch

    def _again(self) -> _Stretch | None:
        """A batch that was taken back or is late."""
        if self._due:
            return self._due.popleft()
        oldest = next(iter(self._open), None)
        if oldest is None or self._clock() < self._open[oldest].deadline:
            return None
        return self._ended(oldest)

    def _next_epoch(self) -> int:
        """The epoch of the next batch that is lent for the first time."""
        return self._next.epoch + (self._next.stop == self._samples)

    def _new(self) -> _Stretch | None:
        epoch = self._next_epoch()
        if epoch == self._epochs:
            return None
        start = self._next.stop if epoch == self._next.epoch else 0
        self._next = _Stretch(epoch, start, min(start + self.batch_size, self._samples))
        return self._next

    # ---- checkpoint

    def state_dict(self) -> dict[str, Any]:
        """What is answered and what is not. The batches that are out count as not answered."""
        due = [*self._due, *(loan.stretch for loan in self._open.values())]
        return {
            "samples": self._samples,
            "seed": self._order.seed,
            "batch_size": self._batch_size,
            "epoch": self._next.epoch,
            "position": self._next.stop,
            "number": self._number,
            "due": [list(stretch) for stretch in due],
        }

    def check(self, state_dict: Mapping[str, Any]) -> None:
        """Raises ValueError unless `load_state_dict` would take this."""
        if missing := [name for name in _SAVED if name not in state_dict]:
            lacking = ", ".join(missing)
            raise ValueError(
                f"Invalid state_dict: it lacks {lacking}; give what state_dict() returned"
            )
        saved = state_dict["samples"]
        if saved != self._samples:
            raise ValueError(
                f"Invalid state_dict: it was saved with {saved} samples, these are "
                f"{self._samples}; construct Batches with the same data"
            )

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues where state_dict() was taken: what was out then is lent again.

        Raises:
            ValueError: other data, or an entry is missing. Nothing has changed then.
        """
        self.check(state_dict)
        self.batch_size = state_dict["batch_size"]
        self._order = EpochOrder(self._samples, state_dict["seed"])
        self._next = _Stretch(state_dict["epoch"], 0, state_dict["position"])
        self._number = state_dict["number"]
        self._open = {}
        self._due = deque(_Stretch(*stretch) for stretch in state_dict["due"])
