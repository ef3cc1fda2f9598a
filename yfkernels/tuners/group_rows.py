"""The user's settings of every parameter group, where the kernels read them."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from yfkernels.ops.backend import Backend
from yfkernels.ops.backends import backend_of


def scalar_on(device: torch.device, value: Tensor | None) -> Tensor | None:
    """A number of GradScaler's, of one element in whatever shape, as the backends take it."""
    return None if value is None else value.to(device, torch.float32).reshape(())


class GroupRows:
    """One row of numbers a parameter group, written only when they change.

    Args:
        fields: numbers in a row.
        lr: the place of the learning rate in it.

    Attributes:
        rows: float64 [groups, fields].
    """

    def __init__(self, fields: int, lr: int = 0) -> None:
        self._fields = fields
        self._lr = lr
        self.prepare(0, torch.device("cpu"), backend_of("torch", "cpu"))

    def prepare(self, num_groups: int, device: torch.device, backend: Backend) -> None:
        """Makes room on a device."""
        self._backend = backend
        self._written: list[list[float]] = []
        self.rows = torch.zeros(num_groups, self._fields, dtype=torch.float64, device=device)

    def write_again(self) -> None:
        """Has the next `set` write, whatever was written before."""
        self._written = []

    def set(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        """Takes this step's settings; costs nothing unless they changed.

        Args:
            values: a row for each group.
            device_lrs: by group, learning rates that live on a device and must be read there:
                they are copied in every step, over the number in `values`.
        """
        if values != self._written:
            self._written = values
            flat = [value for row in values for value in row]
            words = struct.unpack(f"{len(flat)}q", struct.pack(f"{len(flat)}d", *flat))
            self._backend.write_words(self.rows.view(-1), list(words))
        for group, lr in device_lrs.items():
            self.rows[group, self._lr].copy_(lr.reshape(()))
