"""A connection between two processes that notices at once when the other one dies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:  # torch.distributed has them, but does not say so
    from torch._C._distributed_c10d import Store, Work

_ROOM = 4096  # bytes for a header: gloo ends a process that is sent more than it expects
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
    """Sends and receives headers, and tensors that follow them, over gloo.

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
        self._sent: list[tuple[Work, Tensor]] = []
        self._room = torch.zeros(_ROOM, dtype=torch.uint8, device="cpu")
        self._group: Any
        try:
            self._group = dist.ProcessGroupGloo(store, place, 2, timedelta(seconds=timeout))
        except RuntimeError as error:
            raise PeerLost("did not come") from error

    def send(self, *messages: bytes | Tensor) -> None:
        """Starts to send headers, as bytes, and tensors of the CPU.

        They must stay as they are until `settle`. A tensor's place among the tensors of one call
        is its tag.
        """
        tag = _HEADER_TAG
        for message in messages:
            if isinstance(message, Tensor):
                tag += 1
                self._send(message.view(torch.uint8), tag)
            else:
                self._send(torch.frombuffer(bytearray(message), dtype=torch.uint8), _HEADER_TAG)

    def _send(self, content: Tensor, tag: int) -> None:
        try:
            self._sent.append((self._group.send([content], self._peer, tag), content))
        except RuntimeError as error:
            raise PeerLost("died") from error

    def settle(self) -> None:
        """Ends what `send` began; to be called when the peer has answered to all of it."""
        for sending, _ in self._sent:
            self._wait(sending, self._timeout)
        self._sent.clear()

    def receive(self, *tensors: Tensor, timeout: float | None = None) -> bytes:
        """Waits for a header, and before it for the tensors that the peer has announced.

        Args:
            tensors: of the CPU, contiguous, of the announced sizes.
            timeout: seconds, in place of the pair's.

        Returns:
            The header, and what there is room for.

        Raises:
            PeerLost: the peer died or stayed silent.
        """
        coming = []
        self._room.zero_()
        try:
            for tag, tensor in enumerate(tensors, start=_HEADER_TAG + 1):
                content = tensor.view(torch.uint8)
                content[-len(_MARK) :] = 0xFF
                coming.append(self._group.recv([content], self._peer, tag))
            header = self._group.recv([self._room], self._peer, _HEADER_TAG)
        except RuntimeError as error:
            raise PeerLost("died") from error
        self._wait(header, self._timeout if timeout is None else timeout)
        for each in coming:
            self._wait(each, self._timeout)
        return bytes(self._room.numpy())

    def close(self) -> None:
        """Ends the connection; gloo writes to no tensor any more."""
        del self._group

    def _wait(self, transfer: Work, timeout: float) -> None:
        since = time.monotonic()
        try:
            transfer.wait(timedelta(seconds=timeout))
        except RuntimeError as error:
            silent = time.monotonic() - since >= timeout
            raise PeerLost("was silent for too long" if silent else "died") from error


def filled(tensors: Sequence[Tensor]) -> bool:
    """Whether all that `receive` was to receive came, to the end.

    gloo takes a message that is shorter than expected without a word.
    """
    return all(bytes(t.view(torch.uint8)[-len(_MARK) :].numpy()) != _MARK for t in tensors)
