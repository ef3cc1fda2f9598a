"""A worker's end of the gloo engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from yfkernels._checks import check_positive, require
from yfkernels.asynchronous.engines.gloo.pair import Pair, PeerLost
from yfkernels.asynchronous.engines.gloo.rendezvous import Meeting, meet, part_of
from yfkernels.asynchronous.engines.wire import Ends, Fault, Kind, Layout, WireError, pack
from yfkernels.asynchronous.flat import FlatBuffers
from yfkernels.asynchronous.push import Next, Reply, Request
from yfkernels.asynchronous.worker import work as work_with


def work(
    model: nn.Module,
    loss: Callable[[list[int] | None], Tensor],
    *,
    timeout: float = 600.0,
) -> int:
    """Computes gradients for the server of rank 0 until it says that training has ended.

    Args:
        model: of the server's architecture; on any device. It takes the server's parameters.
        loss: computes the loss of the model; called with the indices of a batch, or with None if
            the server has no batches.
        timeout: seconds of silence after which the server counts as lost.

    Returns:
        How many of its gradients were applied.

    Raises:
        RuntimeError: not started by torchrun.
        ConnectionError: the server died, was silent, or closed the connection; it says why.
    """
    check_positive("timeout", timeout)
    buffers = FlatBuffers(model)
    meeting = meet()
    try:
        link = connect(meeting, Layout.of(buffers), timeout)
        try:
            return work_with(buffers, loss, link, worker=f"worker {meeting.rank}")
        finally:
            link.pair.close()
    except PeerLost as error:
        raise ConnectionError(f"the server {error.reason}") from error


def connect(meeting: Meeting, layout: Layout, timeout: float) -> PairLink:
    """Connects a worker to the server of its run.

    Args:
        meeting: of the processes of the run.
        layout: of the worker's model.
        timeout: seconds of silence after which the server counts as lost.

    Raises:
        ValueError: this is the server.
        ConnectionError: another process has the same rank, or the server does not come.
    """
    store, rank, _ = meeting
    require(rank > 0, "rank", rank, "above 0; the server's calls serve()")
    try:
        others = store.add(f"here {rank}", 1) - 1
        token = int(store.get("token"))
    except RuntimeError as error:  # of the store
        raise PeerLost("died") from error
    if others:
        raise ConnectionError(f"another process of this run has rank {rank}: are there two runs?")
    pair = Pair(part_of(store, f"worker {rank}"), 1, timeout)
    return PairLink(pair, Ends(token, rank, layout))


class PairLink:
    """Exchanges messages with the server, straight from and into flat tensors of the CPU.

    Attributes:
        pair: the connection.
        ends: what the two ends agree on.
    """

    def __init__(self, pair: Pair, ends: Ends) -> None:
        self.pair = pair
        self.ends = ends
        self._stages: dict[int, Tensor] = {}

    def exchange(
        self, request: Request, gradient: Sequence[Tensor] | None, parameters: Sequence[Tensor]
    ) -> Reply:
        """As `Link` says.

        Raises:
            PeerLost: the server died or was silent.
            ConnectionError: it closed the connection, or sent what does not fit.
        """
        pair, ends = self.pair, self.ends
        stages = [self._stage(flat) for flat in parameters]
        pair.expect(stages)
        header = pack(ends.request(request, gradient is not None))
        pair.send(header, () if gradient is None else self._from(gradient))
        reply = ends.read(pair.header(), [Kind.REPLY, Kind.REFUSE])
        if reply.kind is Kind.REFUSE:
            raise ConnectionError(ends.why(reply))
        pair.settle()
        if reply.next is Next.WORK:
            if not pair.complete():
                raise WireError(Fault.SHORT)
            for flat, stage in zip(parameters, stages):
                if flat is not stage:
                    flat.copy_(stage)
        version = ends.version(reply)
        return Reply(reply.next, version, reply.result, reply.lease, reply.indices)

    def _from(self, flats: Sequence[Tensor]) -> list[Tensor]:
        stages = [self._stage(flat) for flat in flats]
        for flat, stage in zip(flats, stages):
            if flat is not stage:
                stage.copy_(flat)
        return stages

    def _stage(self, flat: Tensor) -> Tensor:
        """A tensor of the CPU for another device's; itself if it is there."""
        if flat.device.type == "cpu":
            return flat
        if flat.data_ptr() not in self._stages:
            self._stages[flat.data_ptr()] = torch.empty_like(flat, device="cpu")
        return self._stages[flat.data_ptr()]
