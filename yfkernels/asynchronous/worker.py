"""A worker's loop: take parameters, compute a gradient, push it, until training has ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from yfkernels.asynchronous.flat import FlatBuffers
from yfkernels.asynchronous.push import Next, Reply, Request

_PAUSE = 0.05  # seconds before asking again when there is no batch


class Link(Protocol):
    """A worker's connection to the server: the part of an engine that a worker sees."""

    def exchange(
        self, request: Request, gradient: Sequence[Tensor] | None, parameters: Sequence[Tensor]
    ) -> Reply:
        """Sends a request, with a gradient or without, and returns the reply.

        Args:
            request: what the worker says.
            gradient: flat tensors, not changed meanwhile; None if there is none.
            parameters: flat tensors that receive the server's if the reply says WORK.
        """


def work(
    model: nn.Module | FlatBuffers,
    loss: Callable[[list[int] | None], Tensor],
    link: Link,
    *,
    worker: str,
) -> int:
    """Computes gradients for a server until it says that training has ended.

    A loss or gradient that is not finite is pushed as any other: the server refuses and counts it.

    Args:
        model: of the server's architecture. Its parameters become views of flat tensors; their
            values do not matter.
        loss: computes the loss of the model; called with the indices of a batch, or with None if
            the server has no batches.
        link: the connection to the server.
        worker: the worker's name, which no other has.

    Returns:
        How many of its gradients were applied.

    Example:
        >>> class Local:
        ...     def __init__(self, service):
        ...         self.service = service
        ...     def exchange(self, request, gradient, parameters):
        ...         reply, snapshot = self.service.answer(request, gradient)
        ...         if snapshot is not None:
        ...             with snapshot as flats:
        ...                 for mine, theirs in zip(parameters, flats):
        ...                     mine.copy_(theirs)
        ...         return reply
        >>> from yfkernels.asynchronous import Server, Service
        >>> model, own = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> server = Server(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> link = Local(Service(server, pushes=30))
        >>> work(own, lambda batch: own(torch.ones(1, 2)).square().sum(), link, worker="ada")
        30
        >>> abs(model(torch.ones(1, 2)).item()) < 1e-3
        True
    """
    buffers = model if isinstance(model, FlatBuffers) else FlatBuffers(model)
    reply = link.exchange(Request(worker), None, buffers.parameters)
    applied = 0
    while reply.next is not Next.STOP:
        if reply.next is Next.WAIT:
            time.sleep(_PAUSE)
            request, gradient = Request(worker, None, None, math.nan), None
        else:
            buffers.zero_grad()
            value = loss(reply.indices)
            value.backward()
            request = Request(worker, reply.version, reply.lease, float(value.detach()))
            gradient = buffers.gradients
        reply = link.exchange(request, gradient, buffers.parameters)
        applied += reply.result is not None and reply.result.applied
    return applied
