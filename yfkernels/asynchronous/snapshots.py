"""Copies of the parameters that stay as they are while they are sent and the server goes on."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import torch
from torch import Tensor

from yfkernels.asynchronous.push import Version


class Snapshot:
    """The flat parameters of one version, on the CPU. Leaving its `with` block gives it back.

    Attributes:
        parameters: not to be changed, and not to be used after the block.
    """

    def __init__(self, owner: Snapshots, version: Version, parameters: tuple[Tensor, ...]) -> None:
        self.parameters = parameters
        self.version = version
        self.readers = 0
        self._owner = owner

    def __enter__(self) -> tuple[Tensor, ...]:
        return self.parameters

    def __exit__(self, *error: object) -> None:
        self._owner.give_back(self)


class Snapshots:
    """Makes one copy of each version that is asked for, and shares it among all who ask.

    Copies that nobody reads any more are used again, so that there are never more of them than
    readers, and one.

    Args:
        parameters: the flat parameters, which change between versions.

    Example:
        >>> x = torch.zeros(2)
        >>> snapshots = Snapshots([x])
        >>> with snapshots.of(Version(run=1, number=0)) as (copy,):
        ...     x += 1.0
        ...     copy
        tensor([0., 0.])
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._newest: Snapshot | None = None
        self._free: list[tuple[Tensor, ...]] = []
        self._lock = Lock()  # of the counts of readers

    def of(self, version: Version) -> Snapshot:
        """The parameters, which are now those of `version` and must not change meanwhile."""
        with self._lock:
            if self._newest is None or self._newest.version != version:
                self._newest = self._copy(version)
            self._newest.readers += 1
            return self._newest

    def give_back(self, snapshot: Snapshot) -> None:
        """One reader has finished."""
        with self._lock:
            snapshot.readers -= 1
            if not snapshot.readers and snapshot is not self._newest:
                self._free.append(snapshot.parameters)

    def _copy(self, version: Version) -> Snapshot:
        if self._newest is not None and not self._newest.readers:
            copies = self._newest.parameters
        elif self._free:
            copies = self._free.pop()
        else:
            copies = tuple(torch.empty_like(flat, device="cpu") for flat in self._parameters)
        for copy, flat in zip(copies, self._parameters):
            copy.copy_(flat)
        return Snapshot(self, version, copies)


class Live(Snapshots):
    """The parameters themselves, if each reply has been sent before the next push is applied."""

    def of(self, version: Version) -> Snapshot:
        return Snapshot(self, version, tuple(self._parameters))

    def give_back(self, snapshot: Snapshot) -> None:
        """They are not a copy that could be used again."""
