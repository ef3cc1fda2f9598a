"""What every engine does with a worker's message: push, settle the batch, lend the next one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from yfkernels._checks import is_count, require
from yfkernels._saving import load_plain, save_whole
from yfkernels.asynchronous.push import Next, PushResult, Refusal, Reply, Request
from yfkernels.asynchronous.record import Record, push_and_settle
from yfkernels.asynchronous.server import Server
from yfkernels.asynchronous.snapshots import Snapshot, Snapshots


@dataclass
class WorkerCounts:
    """What became of one worker's messages.

    Attributes:
        applied: its gradients that made a step.
        refusals: number of its refused gradients for each reason.
        unused: its gradients that came after the end.
        losses: how often it was lost for each reason.
    """

    applied: int = 0
    refusals: Counter[Refusal] = field(default_factory=Counter)
    unused: int = 0
    losses: Counter[str] = field(default_factory=Counter)

    def count(self, result: PushResult) -> None:
        """Counts a push."""
        if result.refusal is None:
            self.applied += 1
        else:
            self.refusals[result.refusal] += 1

    def state_dict(self) -> dict[str, Any]:
        """The counts, in plain types."""
        return {
            "applied": self.applied,
            "refusals": {reason.name: count for reason, count in self.refusals.items()},
            "unused": self.unused,
            "losses": dict(self.losses),
        }

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any]) -> WorkerCounts:
        """What state_dict() was taken of."""
        counts = state_dict["refusals"].items()
        refusals = Counter({Refusal[name]: count for name, count in counts})
        losses = Counter(state_dict["losses"])
        return cls(state_dict["applied"], refusals, state_dict["unused"], losses)


class Answer(NamedTuple):
    """A reply, and with WORK the parameters that belong to it.

    Send what `with answer.snapshot as parameters:` gives: it stays as it is meanwhile.
    """

    reply: Reply
    snapshot: Snapshot | None


class Saved(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> dict[str, Any]:
        """In tensors, numbers, strings and their containers."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restores what state_dict() returned."""


class Service:
    """Answers the workers of a server. Any thread may call any method.

    A push and the next pull are one exchange. One thread at a time is served; each must copy or
    send what it got after the call, while others are served.

    Args:
        server: what is trained. Nobody else may use it before training has ended.
        pushes: training ends after so many applied pushes, those before a resume included; >= 1.
            None to end with the server's batches, or at `stop`.
        on_push: called with the record of each push, under the lock: others wait for it.
        checkpoint: the file that `save` writes. Its folder must exist.
        checkpoint_every: also write it after every so many applied pushes, >= 1, under the lock.
            None to leave it to `save`.
        saved: what else the checkpoint is to hold, such as an LR scheduler that `on_push` steps.

    Attributes:
        server: the server.
        workers: what became of each worker's messages, by its name.
        latest: the record of the last push; None before the first.
        snapshots: makes what replies carry; `Live` for an engine that serves one worker at a time.
        checkpoint: the file; None without one.

    Raises:
        ValueError: an argument out of its range; checkpoint_every without a checkpoint.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> service = Service(Server(model, torch.optim.SGD(model.parameters(), lr=0.1)), pushes=1)
        >>> reply, snapshot = service.answer(Request("ada"))
        >>> reply.next.name
        'WORK'
        >>> with snapshot as parameters:
        ...     gradient = [torch.ones_like(flat) for flat in parameters]
        >>> reply, snapshot = service.answer(Request("ada", reply.version, loss=0.5), gradient)
        >>> reply.next.name, reply.result.applied, snapshot
        ('STOP', True, None)
    """

    def __init__(
        self,
        server: Server,
        *,
        pushes: int | None = None,
        on_push: Callable[[Record], None] | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        saved: Mapping[str, Saved] = MappingProxyType({}),
    ) -> None:
        need = "an integer >= 1, or None for no limit"
        require(pushes is None or is_count(pushes), "pushes", pushes, need)
        ok = checkpoint_every is None or (is_count(checkpoint_every) and checkpoint is not None)
        need = "an integer >= 1, along with a checkpoint, or None"
        require(ok, "checkpoint_every", checkpoint_every, need)
        self.server = server
        self.workers: dict[str, WorkerCounts] = {}
        self.latest: Record | None = None
        self._pushes = pushes
        self._on_push = on_push
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self._every = checkpoint_every
        self._also = dict(saved)
        self.snapshots = Snapshots(server.buffers.parameters)
        self._stopped = False
        self._lock = Lock()

    def answer(self, request: Request, gradient: Sequence[Tensor] | None = None) -> Answer:
        """Applies the gradient that came with a request, if one did, and says what to do next.

        An exception from the optimizer or from `on_push` goes through, and training has ended.

        Args:
            request: what the worker says.
            gradient: flat tensors in the layout of the server's `FlatBuffers`, on any device.

        Raises:
            ValueError: a gradient without a version.
        """
        ok = gradient is None or request.version is not None
        require(ok, "version", request.version, "that of the gradient")
        with self._lock:
            try:
                result = None if gradient is None else self._push(request, gradient)
                return self._pull(request.worker, result)
            except BaseException:
                self.stop()  # before another worker pushes: the step may be half done
                raise

    def lost(self, worker: str, reason: str = "died") -> None:
        """A worker has died, or is served no longer: the batches that it had are lent to others."""
        with self._lock:
            self._of(worker).losses[reason] += 1
            if self.server.batches is not None:
                self.server.batches.take_back_all(worker)

    def stop(self) -> None:
        """Ends training: from now on every worker is told so when it asks."""
        self._stopped = True

    @property
    def finished(self) -> bool:
        """Whether training has ended."""
        batches = self.server.batches
        enough = self._pushes is not None and self.server.version.number >= self._pushes
        return self._stopped or enough or (batches is not None and batches.finished)

    def _of(self, worker: str) -> WorkerCounts:
        return self.workers.setdefault(worker, WorkerCounts())

    def _push(self, request: Request, gradient: Sequence[Tensor]) -> PushResult | None:
        assert request.version is not None
        counts = self._of(request.worker)
        if self.finished:
            counts.unused += 1
            return None
        self.latest = record = push_and_settle(
            self.server,
            gradient,
            version=request.version,
            lease=request.lease,
            loss=request.loss,
            worker=request.worker,
        )
        counts.count(record.result)
        if self._on_push is not None:
            self._on_push(record)
        if record.applied and self._every is not None and record.step % self._every == 0:
            self._save()
        return record.result

    def _pull(self, worker: str, result: PushResult | None) -> Answer:
        self._of(worker)
        server, version = self.server, self.server.version
        if self.finished:
            return Answer(Reply(Next.STOP, version, result), None)
        if server.batches is None:
            return Answer(Reply(Next.WORK, version, result), self.snapshots.of(version))
        lease = server.batches.lend(worker)
        if lease is None:
            return Answer(Reply(Next.WAIT, version, result), None)
        reply = Reply(Next.WORK, version, result, lease.number, lease.indices)
        return Answer(reply, self.snapshots.of(version))

    # ---- checkpoint

    def save(self) -> None:
        """Writes the checkpoint; a kill at any moment leaves the one before, or this one.

        Raises:
            ValueError: there is no file to write.
        """
        require(self.checkpoint is not None, "checkpoint", None, "a path to save")
        with self._lock:
            self._save()

    def _save(self) -> None:
        assert self.checkpoint is not None
        workers = {name: counts.state_dict() for name, counts in self.workers.items()}
        also = {name: each.state_dict() for name, each in self._also.items()}
        state = {"server": self.server.state_dict(), "workers": workers, "also": also}
        save_whole(self.checkpoint, state)

    def resume(self) -> None:
        """Continues from the checkpoint. What was applied after it was written is forgotten.

        Raises:
            FileNotFoundError: there is none.
            ValueError, RuntimeError: it cannot be read, or is of another server.
        """
        require(self.checkpoint is not None, "checkpoint", None, "a path to resume")
        assert self.checkpoint is not None
        state = load_plain(self.checkpoint, "remove it, or do not resume")
        lacks = sorted(self._also.keys() - state["also"].keys())
        require(not lacks, "saved", lacks, "what the checkpoint has; leave these out to resume")
        with self._lock:
            self.server.load_state_dict(state["server"])
            workers = state["workers"].items()
            self.workers = {name: WorkerCounts.from_state_dict(each) for name, each in workers}
            for name, each in self._also.items():
                each.load_state_dict(state["also"][name])
