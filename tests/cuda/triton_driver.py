"""What Triton asks of its driver, for a GPU that is not here."""

from __future__ import annotations

from triton.backends.compiler import GPUTarget


class Driver:
    """What Triton asks of a driver before it launches."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # Triton keeps a cache of kernels for each device

    def get_current_stream(self, device: int) -> int:
        return 0
