"""The server's end of the gloo engine: a thread for each worker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Condition, Thread

import torch
from torch import Tensor

from yfkernels._checks import check_positive, require
from yfkernels.asynchronous.engines.gloo.pair import Pair, PeerLost
from yfkernels.asynchronous.engines.gloo.rendezvous import Meeting, meet, part_of
from yfkernels.asynchronous.engines.wire import Ends, Fault, Header, Kind, Layout, WireError, pack
from yfkernels.asynchronous.push import Next, Request
from yfkernels.asynchronous.server import Server
from yfkernels.asynchronous.service import Answer, Service

_LOOK = 0.05  # seconds between looks for workers that have come
_FAREWELL = 5.0  # seconds for a worker to hear that it is served no longer


def serve(server: Server | Service, *, timeout: float = 600.0, grace: float = 60.0) -> Service:
    """Trains with the workers of ranks 1 and up until training has ended.

    A worker that dies, is silent, or sends what does not fit is served no longer; the others go on.
    It cannot come back, and no worker can join that WORLD_SIZE does not count. At the end, or on
    Ctrl-C, the workers are told, and the checkpoint is written if the service has one.

    Where one of the processes that one torchrun has started dies, torchrun ends the others. For
    them to go on, start one torchrun for each process, with `--nnodes` and `--nproc-per-node 1`;
    or, on one machine, use `start`.

    Args:
        server: what is trained; a `Service` for a callback, a checkpoint or a number of pushes.
        timeout: seconds of silence after which a worker counts as lost. Longer than the longest
            gradient takes: a worker that is lost does not come back. (`Batches.patience` says when
            others get its batch, which costs it nothing else.)
        grace: seconds that workers have, at the end, to finish their gradient and be told.

    Returns:
        The service, with the counts of every worker.

    Raises:
        RuntimeError: not started by torchrun; all workers are lost before the end.
        OSError: the port is taken.

    Example, `torchrun --nproc-per-node 3 train.py`:

        torch.manual_seed(0)
        x, y = torch.randn(512, 8), torch.randn(512, 1)
        model = torch.nn.Linear(8, 1)

        def loss(batch):
            return torch.nn.functional.mse_loss(model(x[batch]), y[batch])

        if gloo.is_server():
            optimizer = yfkernels.YellowFin(model.parameters())
            gloo.serve(Server(model, optimizer, batches=Batches(512, 32, epochs=10)))
            torch.save(model.state_dict(), "model.pt")
        else:
            gloo.work(model, loss)
    """
    check_positive("timeout", timeout)
    check_positive("grace", grace)
    service = server if isinstance(server, Service) else Service(server)
    meeting = meet()
    require(meeting.rank == 0, "rank", meeting.rank, "0; the others call work()")
    Serving(service, meeting, timeout, grace).run()
    return service


class Serving:
    """The threads that serve, and the one that looks after them.

    Args:
        service, timeout, grace: as of `serve`.
        meeting: of the processes of the run.
    """

    def __init__(self, service: Service, meeting: Meeting, timeout: float, grace: float) -> None:
        self._service = service
        self._store = meeting.store
        self._timeout = timeout
        self._grace = grace
        self._token = service.server.version.run
        self._layout = Layout.of(service.server.buffers)
        self._absent = set(range(1, meeting.world))
        self._served: set[int] = set()
        self._error: BaseException | None = None
        self._changed = Condition()

    def run(self) -> None:
        """Returns when all workers have been told of the end."""
        self._store.set("token", str(self._token))
        try:
            self._until_all_are_told()
        except KeyboardInterrupt:
            self._service.stop()
            self._grace = min(self._grace, _FAREWELL)
            self._until_all_are_told()
            self._save()
            raise
        self._save()
        if not self._service.finished:
            workers = sorted(self._service.workers.items())
            losses = [f"{name} {', '.join(counts.losses)}" for name, counts in workers]
            raise RuntimeError(
                f"no worker is left after {self._service.server.version.number} pushes: "
                + ("; ".join(losses) or "none came")
            )

    def _until_all_are_told(self) -> None:
        """Or are lost, or were given time enough."""
        begin, end = time.monotonic(), None
        while self._absent or self._served:
            self._let_in()
            with self._changed:
                self._changed.wait(_LOOK)
            if self._error is not None:
                raise self._error
            now = time.monotonic()
            if self._service.finished:
                end = now if end is None else end
                if now > end + self._grace:
                    break
            elif not self._served and now > begin + self._timeout:
                break
        for rank in sorted(self._absent | self._served):
            self._service.lost(_name(rank), "did not come to be told of the end")

    def _let_in(self) -> None:
        """Begins to serve those who have come."""
        for rank in sorted(self._absent):
            if self._store.check([f"here {rank}"]):
                self._absent.remove(rank)
                self._served.add(rank)
                # No daemon, which would be torn out of gloo when Python ends. It ends with the
                # worker, whom it tells of the end even after `serve` has returned.
                Thread(target=self._serve, args=(rank,), name=_name(rank)).start()

    def _save(self) -> None:
        if self._service.checkpoint is not None:
            self._service.save()

    # ---- in the thread of one worker

    def _serve(self, rank: int) -> None:
        ends = Ends(self._token, rank, self._layout)
        try:
            pair = Pair(part_of(self._store, f"worker {rank}"), 0, self._timeout)
            try:
                self._talk(pair, ends, _name(rank))
            except WireError as error:
                self._service.lost(_name(rank), error.fault.value)
                _part(pair, pack(ends.header(Kind.REFUSE, fault=error.fault)))
            finally:
                pair.close()
        except PeerLost as error:
            self._service.lost(_name(rank), error.reason)
        except BaseException as error:  # of the optimizer, or of a callback: training cannot go on
            self._service.stop()
            self._error = error
        finally:
            with self._changed:
                self._served.discard(rank)
                self._changed.notify()

    def _talk(self, pair: Pair, ends: Ends, worker: str) -> None:
        """Answers a worker until it has been told of the end."""
        gradient = self._stage()
        header = ends.read(pair.header(), [Kind.ASK])
        while True:
            answer = self._answer(pair, ends, worker, header, gradient)
            pair.expect(gradient)  # nothing is received before a first header fits
            reply = pack(ends.reply(answer.reply))
            if answer.reply.next is Next.STOP:
                _part(pair, reply)
                return
            if answer.snapshot is None:
                pair.send(reply)
                header = ends.read(pair.header(), [Kind.ASK, Kind.PUSH])
            else:
                with answer.snapshot as parameters:  # which have arrived when the worker answers
                    pair.send(reply, parameters)
                    header = ends.read(pair.header(), [Kind.ASK, Kind.PUSH])
            pair.settle()

    def _answer(
        self, pair: Pair, ends: Ends, worker: str, header: Header, gradient: Sequence[Tensor]
    ) -> Answer:
        if header.kind is Kind.ASK:
            return self._service.answer(Request(worker))
        if not pair.complete():
            raise WireError(Fault.SHORT)
        request = Request(worker, ends.version(header), header.lease, header.loss)
        return self._service.answer(request, gradient)

    def _stage(self) -> Sequence[Tensor]:
        """Where the gradients of one worker arrive; on the CPU the optimizer takes them there."""
        buffers = self._service.server.buffers
        if all(flat.device.type == "cpu" for flat in buffers.parameters):
            return buffers.more_gradients()
        return [torch.empty_like(flat, device="cpu") for flat in buffers.parameters]


def _part(pair: Pair, last: bytes) -> None:
    """Sends a last header, and waits until the worker has it and hangs up."""
    with suppress(PeerLost):
        pair.send(last)
        pair.header(_FAREWELL)


def _name(rank: int) -> str:
    return f"worker {rank}"
