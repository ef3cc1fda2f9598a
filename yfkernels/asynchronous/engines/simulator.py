"""Asynchronous training in one process, with staleness as prescribed, to the bit repeatable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yfkernels._checks import is_count, require
from yfkernels.asynchronous.batches import Lease
from yfkernels.asynchronous.push import Version
from yfkernels.asynchronous.record import Record, push_and_settle
from yfkernels.asynchronous.server import Server


class _Pending(NamedTuple):
    """A gradient on its way."""

    version: Version
    gradient: tuple[Tensor, ...]
    loss: float
    lease: Lease | None


class Simulator:
    """Drives a server as asynchronous workers would.

    A schedule says for each push how many pushes come between its pull and itself. At the start the
    server is as it was given: no push can have been pulled before. Gradients are taken in the
    server's own model, so that all workers share its buffers.

    A batch whose push is refused is lent again, except for a gradient that is not finite: its
    batch is given up, as asking again could go on for good.

    Args:
        server: what is driven. With `batches`, the simulation ends with them at the latest; give
            them a clock that stands still, `clock=lambda: 0.0`, as no worker here is late.
        loss: computes the loss of the server's model; called with the indices of a batch, or with
            None if the server has no batches.

    Attributes:
        pushes: how many of the schedule have been made.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> server = Server(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> simulator = Simulator(server, lambda batch: model(torch.ones(1, 3)).square().sum())
        >>> [record.staleness for record in simulator.run(round_robin(workers=3, pushes=5))]
        [0, 1, 2, 2, 2]
    """

    def __init__(self, server: Server, loss: Callable[[list[int] | None], Tensor]) -> None:
        self._server = server
        self._loss = loss
        self._under_way: dict[int, _Pending] = {}  # by the place of the push in the schedule
        self.pushes = 0

    def run(self, schedule: Sequence[int]) -> list[Record]:
        """Makes the pushes of a schedule."""
        return list(self.steps(schedule))

    def steps(self, schedule: Sequence[int], *, start: int = 0) -> Iterator[Record]:
        """As `run`, one push at a time; `server.gradients` holds its gradient as it was applied.

        Args:
            schedule: for each push, how many come between its pull and itself.
            start: pushes of the schedule that were made before: `pushes`, to go on where another
                iterator stopped, or after `load_state_dict`.

        Raises:
            ValueError: a negative staleness.
        """
        smallest = min(schedule, default=0)
        require(smallest >= 0, "schedule", smallest, "stalenesses >= 0")
        if start == 0:
            self._under_way.clear()
        pushes_of: list[list[int]] = [[] for _ in schedule]  # by when they are pulled
        for push, staleness in enumerate(schedule):
            pushes_of[max(push - staleness, 0)].append(push)
        for now in range(start, len(schedule)):
            for push in pushes_of[now]:
                pending = self._pull()
                if pending is not None:
                    self._under_way[push] = pending
            self.pushes = now + 1
            if now in self._under_way:
                yield self._push(self._under_way.pop(now))

    def _pull(self) -> _Pending | None:
        """Takes a gradient at the current parameters; None if there is no batch left."""
        server = self._server
        lease = None if server.batches is None else server.batches.lend()
        if server.batches is not None and lease is None:
            return None
        server.buffers.zero_grad()
        loss = self._loss(None if lease is None else lease.indices)
        loss.backward()
        gradient = tuple(each.clone() for each in server.gradients)
        return _Pending(server.version, gradient, float(loss.detach()), lease)

    def _push(self, pending: _Pending) -> Record:
        version, gradient, loss, lease = pending
        number = None if lease is None else lease.number
        return push_and_settle(self._server, gradient, version=version, lease=number, loss=loss)

    # ---- checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The server's state and the gradients on their way: what follows is the same to the bit.

        Buffers of the model are not in it, and references to live tensors are.
        """
        under_way = [
            {
                "push": push,
                "version": pending.version.number,
                "gradient": list(pending.gradient),
                "loss": pending.loss,
                "batch": None if pending.lease is None else _batch(pending.lease),
            }
            for push, pending in self._under_way.items()
        ]
        return {
            "server": self._server.state_dict(),
            "pushes": self.pushes,
            "under_way": under_way,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where state_dict() was taken: `steps(schedule, start=simulator.pushes)`.

        Raises:
            ValueError, RuntimeError: as of `Server.load_state_dict`.
        """
        server, under_way = self._server, state_dict["under_way"]
        oldest = min((each["version"] for each in under_way), default=None)
        server.load_state_dict(state_dict["server"], oldest=oldest)
        leases = self._lend_again(state_dict, [each["batch"] for each in under_way])
        self._under_way = {
            each["push"]: _Pending(
                Version(server.version.run, each["version"]),
                tuple(each["gradient"]),
                each["loss"],
                lease,
            )
            for each, lease in zip(under_way, leases)
        }
        self.pushes = state_dict["pushes"]

    def _lend_again(
        self, state_dict: Mapping[str, Any], batches: Sequence[Any]
    ) -> list[Lease | None]:
        """Lends the batches that were out, and no other that is due."""
        if self._server.batches is None:
            return [None for _ in batches]
        lent = {}
        for _ in state_dict["server"]["batches"]["due"]:
            lease = self._server.batches.lend()
            assert lease is not None
            lent[tuple(_batch(lease))] = lease
        found: list[Lease | None] = [lent.pop(tuple(batch)) for batch in batches]
        for lease in lent.values():
            self._server.batches.take_back(lease.number)
        return found


def _batch(lease: Lease) -> list[int]:
    """What tells a lease's batch from all others: its epoch, and its first sample."""
    return [lease.epoch, lease.indices[0]]


# ---- schedules: for each push, how many come between its pull and itself


def fixed(staleness: int, pushes: int) -> list[int]:
    """The same staleness for every push, as far as there were pushes before."""
    return [min(push, staleness) for push in range(pushes)]


def round_robin(workers: int, pushes: int) -> list[int]:
    """Workers that push in turn: a staleness of workers - 1 once each has had its first turn."""
    require(is_count(workers), "workers", workers, "an integer >= 1")
    return fixed(workers - 1, pushes)


def in_order(workers: Sequence[int]) -> list[int]:
    """Workers that push in the given order, each pulling again at once.

    Example:
        >>> in_order([0, 1, 1, 0])
        [0, 1, 0, 2]
    """
    pulled: dict[int, int] = {}
    schedule = []
    for push, worker in enumerate(workers):
        schedule.append(push - pulled.get(worker, 0))
        pulled[worker] = push + 1
    return schedule


def memoryless(workers: int, pushes: int, seed: int = 0) -> list[int]:
    """Workers of which each is equally likely to push next: staleness is geometric, q = 1 - 1/M."""
    require(is_count(workers), "workers", workers, "an integer >= 1")
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randint(workers, (pushes,), generator=generator, device="cpu")
    return in_order(order.tolist())
