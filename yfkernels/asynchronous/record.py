"""Pushing a gradient whose batch is settled and which is written down, however it arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from yfkernels.asynchronous.push import PushResult, Refusal, Version
from yfkernels.asynchronous.server import Server


class Record(NamedTuple):
    """One push.

    Attributes:
        step: the server's version after it.
        loss: at the parameters where its gradient was taken.
        staleness: as the server found it.
        applied: whether the server took a step.
        refusal: why not.
        epoch: of its batch; None without batches, or if its lease was not open.
        worker: whose it is; empty in a simulation.
    """

    step: int
    loss: float
    staleness: int
    applied: bool
    refusal: Refusal | None
    epoch: int | None
    worker: str = ""

    @property
    def result(self) -> PushResult:
        """What the server said to it."""
        return PushResult(self.applied, self.staleness, self.refusal)


def push_and_settle(
    server: Server,
    gradient: Sequence[Tensor],
    *,
    version: Version,
    lease: int | None,
    loss: float,
    worker: str = "",
) -> Record:
    """Pushes; a batch whose push is refused is to be lent again.

    Except for a gradient that is not finite: its batch is given up, as asking again could go on
    for good.
    """
    batches = server.batches
    epoch = None if batches is None or lease is None else batches.epoch_of(lease)
    result = server.push(gradient, version=version, lease=lease)
    if batches is not None and lease is not None and batches.is_open(lease):
        if result.refusal is Refusal.NONFINITE:
            batches.close(lease)
        else:
            batches.take_back(lease)
    number = server.version.number
    return Record(number, loss, result.staleness, result.applied, result.refusal, epoch, worker)
