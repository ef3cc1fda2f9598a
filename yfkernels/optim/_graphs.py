"""What CUDA graphs ask of an optimizer: that a replay finds everything where it was captured.

A replay repeats kernels with the addresses and numbers of the capture. So what the host has written
before and would not write again is written in every captured step; after a capture no step believes
that the device still has what the host wrote last, since a replay may have come between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Start = Callable[[Sequence[Tensor]], None]
"""What looks where parameters begin."""


def capturing() -> bool:
    """Whether the current stream is being captured in a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


class Captured:
    """What captured steps have used: it stays alive, as nobody says when a graph is gone."""

    def __init__(self) -> None:
        self._held: list[Any] = []
        self._plan: Any = None

    def __bool__(self) -> bool:
        return bool(self._held)

    def has(self, plan: Any) -> bool:
        """Whether a step over this plan was captured."""
        return plan is self._plan and plan is not None

    @property
    def starts(self) -> list[tuple[Start, list[Tensor]]]:
        """For each plan what looks where its parameters begin, and those parameters."""
        by_plan = {id(plan): (start, plan.params) for plan, start, *_ in self._held}
        return list(by_plan.values())

    def hold(self, plan: Any, start: Start, *others: Any) -> None:
        """Keeps a plan and what else its captured step uses.

        Args:
            plan: the plan.
            start: what looks where the parameters begin.
            others: everything else that the step reads or writes.
        """
        self._plan = plan
        self._held.append((plan, start, *others))


class Streams:
    """Tells the allocator on which streams a plan's buffers are used.

    A buffer that was allocated on a warm-up stream would otherwise be given away as soon as it is
    let go, while a step on another stream still reads it.
    """

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self._buffers: dict[torch.device, list[Tensor]] = {}
        for buffer in buffers:
            if buffer.is_cuda:
                self._buffers.setdefault(buffer.device, []).append(buffer)
        self._known: dict[torch.device, set[Any]] = {device: set() for device in self._buffers}

    def enter(self) -> None:
        """To be called in every step; costs nothing on a stream that is known."""
        for device, known in self._known.items():
            stream = torch.cuda.current_stream(device)
            if stream not in known:
                known.add(stream)
                for buffer in self._buffers[device]:
                    buffer.record_stream(stream)
