"""One round trip between a device that measures and updates and the host that tunes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_remote(device: torch.device) -> bool:
    """Whether the host reads a device's memory by copies only."""
    return device.type == "cuda"


class Exchange:
    """Numbers down to the host in one copy and one wait, and up again in one copy a device.

    All copies go between pinned memory and the device, so none of them stops the host. The wait is
    for the event after the copy down. What is staged for the way up is written after the next wait
    at the earliest, when the copy before has long been made.

    Args:
        device: where the numbers for the host are, and those that come back to be kept.
        devices: those that want the coefficients.
        coefficients: of every step, on the host: float64 [groups, fields].
        kept: numbers that go both ways, on `device`: float64; None if there are none.
    """

    def __init__(
        self,
        device: torch.device,
        devices: Sequence[torch.device],
        coefficients: Tensor,
        kept: Tensor | None,
    ) -> None:
        self.device = device
        self._kept = kept
        self._shape = coefficients.shape
        self._down: Tensor | None = None  # how much goes down is known with the first step
        words = coefficients.numel() + (0 if kept is None else kept.numel())
        self._staged = self._on_host(words)
        self._up = {each: torch.empty(words, dtype=torch.float64, device=each) for each in devices}
        self._event = torch.cuda.Event() if device.type == "cuda" else None

    def _on_host(self, words: int) -> Tensor:
        pinned = self.device.type == "cuda"
        return torch.empty(words, dtype=torch.float64, device="cpu", pin_memory=pinned)

    def buffers(self) -> list[Tensor]:
        """What was made here and kernels read or write."""
        return list(self._up.values())  # the host has waited for the way down

    def fetch(self, *wanted: Tensor | None) -> list[Any]:
        """Tensors of the device on the host, as float64; waits for the device, once.

        None comes back as None. The host may write to the others; the next call overwrites them.
        """
        parts = [part for part in wanted if part is not None]
        sizes = [part.numel() for part in parts]
        if self._down is None or self._down.numel() != sum(sizes):
            self._down = torch.empty(sum(sizes), dtype=torch.float64, device=self.device)
            self._received = self._on_host(sum(sizes))
        torch.cat([part.reshape(-1) for part in parts], out=self._down)
        self._received.copy_(self._down, non_blocking=True)
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self.device))
            self._event.synchronize()
        received = iter(self._received.split(sizes))
        return [None if part is None else next(received).view(part.shape) for part in wanted]

    def send(self, coefficients: Tensor, kept: Tensor) -> None:
        """Coefficients to all devices, and what is kept to its place; does not wait."""
        count = coefficients.numel()
        self._staged[:count].copy_(coefficients.reshape(-1))
        if self._kept is not None:
            self._staged[count:].copy_(kept)
        for up in self._up.values():
            up.copy_(self._staged, non_blocking=True)
        if self._kept is not None:
            self._kept.copy_(self._up[self.device][count:])

    def coefficients_on(self, device: torch.device) -> Tensor:
        """This step's coefficients on one of the devices; always the same tensor."""
        return self._up[device][: self._shape.numel()].view(self._shape)
