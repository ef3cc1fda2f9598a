"""The server's end of the Ray engine: an actor that answers one message after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yfkernels.asynchronous.engines.ray.arrays import as_bytes, as_tensor
from yfkernels.asynchronous.engines.wire import (
    Ends,
    Fault,
    Header,
    Kind,
    Layout,
    WireError,
    pack,
)
from yfkernels.asynchronous.push import Request
from yfkernels.asynchronous.record import Record
from yfkernels.asynchronous.server import Server
from yfkernels.asynchronous.service import Service
from yfkernels.asynchronous.snapshots import Live

if TYPE_CHECKING:
    from yfkernels.asynchronous.engines.ray.arrays import Bytes


class Serving:
    """What the server actor does. Ray calls one method at a time.

    Messages are those of wire.py, so that the server's checks are the same for all engines: the
    token of the run, the worker, the model's form. Ray itself unpickles the call around them, as it
    does for every actor of a cluster.
    """

    _service: Service

    def __init__(self) -> None:
        self._lost: set[int] = set()
        self._error: BaseException | None = None

    def begin(self, make: Callable[[], Server | Service]) -> int:
        """Makes what is trained, here where it stays.

        Returns:
            The token of the run.
        """
        made = make()
        self._service = made if isinstance(made, Service) else Service(made)
        buffers = self._service.server.buffers
        # Ray copies what a call returns before it makes the next one: nothing changes meanwhile
        self._service.snapshots = Live(buffers.parameters)
        self._layout = Layout.of(buffers)
        return self._service.server.version.run

    # ---- to workers

    def exchange(self, worker: int, raw: bytes, *flats: Bytes) -> list[Any]:
        """Answers a worker's message.

        Args:
            worker: its number.
            raw: the header.
            flats: the gradient that follows it.

        Returns:
            The reply's header, and the parameters if there is work.
        """
        ends = Ends(self._service.server.version.run, worker, self._layout)
        try:
            if worker in self._lost:
                raise WireError(Fault.LOST)
            header = ends.read(raw, [Kind.ASK, Kind.PUSH])
            gradient = None if header.kind is Kind.ASK else self._gradient(flats)
        except WireError as error:
            self.lose(worker, error.fault.value)
            return [pack(ends.header(Kind.REFUSE, fault=error.fault))]
        try:
            return self._answer(ends, header, gradient)
        except BaseException as error:  # of the optimizer, or of a callback: training cannot go on
            self._error = error
            self._service.stop()
            raise

    def _gradient(self, flats: Sequence[Bytes]) -> Sequence[Tensor]:
        """What has arrived, where it is: the optimizer reads Ray's shared memory."""
        dtypes, sizes = self._layout.dtypes, self._layout.sizes
        wanted = [(size * dtype.itemsize,) for dtype, size in zip(dtypes, sizes)]
        try:
            tensors = [as_tensor(array, torch.uint8) for array in flats]
        except TypeError as error:
            raise WireError(Fault.SHORT) from error
        if [tuple(tensor.shape) for tensor in tensors] != wanted:
            raise WireError(Fault.SHORT)
        tensors = [tensor.view(dtype) for tensor, dtype in zip(tensors, dtypes)]
        buffers = self._service.server.buffers
        if any(flat.device.type != "cpu" for flat in buffers.parameters):
            return tensors
        return buffers.gradients_in(tensors, read_only=True)

    def _answer(self, ends: Ends, header: Header, gradient: Sequence[Tensor] | None) -> list[Any]:
        worker = name_of(ends.worker)
        request = Request(worker)
        if gradient is not None:
            request = Request(worker, ends.version(header), header.lease, header.loss)
        reply, snapshot = self._service.answer(request, gradient)
        flats: list[Bytes] = []
        if snapshot is not None:
            with snapshot as parameters:
                flats = [as_bytes(flat) for flat in parameters]
        return [pack(ends.reply(reply)), flats]

    # ---- to the driver

    def lose(self, worker: int, reason: str) -> None:
        """A worker is served no longer: what it may still have sent is refused."""
        if worker not in self._lost:
            self._lost.add(worker)
            self._service.lost(name_of(worker), reason)

    def stop(self) -> None:
        """Ends training: every worker is told when it asks."""
        self._service.stop()

    def finished(self) -> bool:
        """Whether training has ended; raises what ended it before its time."""
        if self._error is not None:
            raise self._error
        return self._service.finished

    def latest(self) -> Record | None:
        """The record of the last push."""
        return self._service.latest

    def result(self) -> dict[str, Any]:
        """What has become of training so far, in plain types; and the checkpoint is written."""
        service = self._service
        if service.checkpoint is not None:
            service.save()
        return {
            "pushes": service.server.version.number,
            "parameters": [as_bytes(flat) for flat in service.server.buffers.parameters],
            "dtypes": self._layout.dtypes,
            "log": service.server.log.state_dict(),
            "workers": {name: counts.state_dict() for name, counts in service.workers.items()},
        }


def name_of(worker: int) -> str:
    """By which the service knows a worker."""
    return f"worker {worker}"
