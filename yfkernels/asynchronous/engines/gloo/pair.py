"""A connection between two processes that notices at once when the other one dies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from yfkernels._checks import require

if TYPE_CHECKING:  # torch.distributed has them, but does not say so
    from torch._C._distributed_c10d import Store, Work

_ROOM = 2**20  # bytes for a header: gloo ends a process that is sent more than it expects
_CLEARED = 1024  # of them, so that a header that is cut short is not completed by the last one
_CONNECT = 60.0  # seconds: both are there already, or one has died since
_HEADER_TAG = 0  # those of tensors follow
_MARK = b"\xff" * 8  # the last bytes of a buffer, until something has been received there


class PeerLost(ConnectionError):
    """The other process has died, or is silent.

    Attributes:
        reason: which of them.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the other end of the connection {reason}")
        self.reason = reason


class Pair:
    """Sends and receives headers, each of them alone or after tensors that belong to it.

    A gloo group of its own for every pair: an error closes all connections of a group. Where gloo
    is in the middle of a tensor when the peer dies, it tells nobody; only those who wait for a
    message that has not begun hear of it. So nobody here waits for a tensor, but for the header
    that comes after it.

    Args:
        store: where the two find each other; nobody else may use its keys.
        place: 0 or 1, the other one for the other process.
        timeout: seconds of silence after which the peer counts as lost.

    Raises:
        PeerLost: the other one does not come.
    """

    def __init__(self, store: Store, place: int, timeout: float) -> None:
        self._peer = 1 - place
        self._timeout = timeout
        self._room = torch.zeros(_ROOM, dtype=torch.uint8, device="cpu")
        self._sent: list[tuple[Work, Tensor]] = []
        self._expected: list[tuple[Work, Tensor]] = []
        self._group: Any
        try:
            patience = timedelta(seconds=min(timeout, _CONNECT))
            self._group = dist.ProcessGroupGloo(store, place, 2, patience)
        except RuntimeError as error:
            raise PeerLost("did not come") from error

    def send(self, header: bytes, tensors: Sequence[Tensor] = ()) -> None:
        """Starts to send tensors of the CPU, and a header after them.

        The tensors must stay as they are until `settle`.

        Raises:
            ValueError: a header with more indices than the peer has room for.
        """
        need = f"at most {_ROOM}, enough for batches of {_ROOM // 8 - 100} samples"
        require(len(header) <= _ROOM, "header length", len(header), need)
        for tag, tensor in enumerate(tensors, start=_HEADER_TAG + 1):
            self._send(tensor.view(torch.uint8), tag)
        self._send(torch.frombuffer(bytearray(header), dtype=torch.uint8), _HEADER_TAG)

    def _send(self, content: Tensor, tag: int) -> None:
        try:
            self._sent.append((self._group.send([content], self._peer, tag), content))
        except RuntimeError as error:
            raise PeerLost("died") from error

    def settle(self) -> None:
        """Ends what `send` began; to be called when the peer has answered to all of it."""
        for sending, _ in self._sent:
            self._wait(sending)
        self._sent.clear()

    def expect(self, tensors: Sequence[Tensor]) -> None:
        """Lets the tensors that the peer sends next arrive in these, if not done before.

        Args:
            tensors: of the CPU, contiguous, and of the sizes that the peer sends: gloo ends this
                process if more comes.
        """
        if self._expected:
            return
        try:
            for tag, tensor in enumerate(tensors, start=_HEADER_TAG + 1):
                content = tensor.view(torch.uint8)
                content[-len(_MARK) :] = 0xFF
                coming = self._group.recv([content], self._peer, tag)
                self._expected.append((coming, content))
        except RuntimeError as error:
            raise PeerLost("died") from error

    def header(self, timeout: float | None = None) -> memoryview:
        """Waits for a header.

        Args:
            timeout: seconds, in place of the pair's.

        Returns:
            What came, and then whatever came before; until the next call.

        Raises:
            PeerLost: the peer died or stayed silent.
        """
        self._room[:_CLEARED].zero_()
        try:
            coming = self._group.recv([self._room], self._peer, _HEADER_TAG)
        except RuntimeError as error:
            raise PeerLost("died") from error
        self._wait(coming, timeout)
        return self._room.numpy().data

    def complete(self) -> bool:
        """Whether the tensors came in full that `expect` was about; after their header came.

        gloo takes a message that is shorter than expected without a word.
        """
        contents = [content for _, content in self._expected]
        for coming, _ in self._expected:
            self._wait(coming)
        self._expected.clear()
        return all(bytes(each[-len(_MARK) :].numpy()) != _MARK for each in contents)

    def close(self) -> None:
        """Ends the connection; gloo writes to no tensor any more."""
        del self._group

    def _wait(self, transfer: Work, timeout: float | None = None) -> None:
        seconds = self._timeout if timeout is None else timeout
        since = time.monotonic()
        try:
            transfer.wait(timedelta(seconds=seconds))
        except RuntimeError as error:
            silent = time.monotonic() - since >= seconds
            raise PeerLost("was silent for too long" if silent else "died") from error
