"""A worker's end of the Ray engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from yfkernels.asynchronous.engines.ray.arrays import as_bytes, as_tensor
from yfkernels.asynchronous.engines.ray.server import name_of
from yfkernels.asynchronous.engines.wire import Ends, Kind, Layout, pack
from yfkernels.asynchronous.flat import FlatBuffers
from yfkernels.asynchronous.push import Next, Reply, Request
from yfkernels.asynchronous.worker import work as work_with

Loss = Callable[[list[int] | None], Tensor]


def work(server: Any, token: int, worker: int, make: Callable[[], tuple[nn.Module, Loss]]) -> int:
    """Computes gradients for a server actor until it says that training has ended.

    Args:
        server: the actor.
        token: of its run.
        worker: the worker's number, which no other has or had.
        make: makes the model and its loss.

    Returns:
        How many of its gradients were applied.

    Raises:
        ConnectionError: the server died, or serves this worker no longer; it says why.
    """
    model, loss = make()
    buffers = FlatBuffers(model)
    link = ActorLink(server, Ends(token, worker, Layout.of(buffers)))
    return work_with(buffers, loss, link, worker=name_of(worker))


class ActorLink:
    """Exchanges messages with the server actor.

    Args:
        server: the actor.
        ends: what the two ends agree on.
    """

    def __init__(self, server: Any, ends: Ends) -> None:
        self._server = server
        self._ends = ends

    def exchange(
        self, request: Request, gradient: Sequence[Tensor] | None, parameters: Sequence[Tensor]
    ) -> Reply:
        """As `Link` says.

        Raises:
            ConnectionError: the server died, or serves this worker no longer.
        """
        import ray

        ends = self._ends
        header = pack(ends.request(request, gradient is not None))
        flats = [as_bytes(flat) for flat in gradient or ()]
        try:
            answer = ray.get(self._server.exchange.remote(ends.worker, header, *flats))
        except ray.exceptions.RayActorError as error:
            raise ConnectionError("the server died") from error
        reply = ends.read(answer[0], [Kind.REPLY, Kind.REFUSE])
        if reply.kind is Kind.REFUSE:
            raise ConnectionError(ends.why(reply))
        if reply.next is Next.WORK:
            for flat, array in zip(parameters, answer[1]):
                flat.copy_(as_tensor(array, flat.dtype))
        return Reply(reply.next, ends.version(reply), reply.result, reply.lease, reply.indices)
