"""Settings of a run that hold for every size: device, contestants, modes, rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from bench.speed.clocks import Clock, CpuClock, CudaClock
from bench.speed.contestants import default_contestants
from bench.speed.sizes import Size

CUDA_ROUNDS = 60
# From here on a state for every mode does not fit, and the host's time is nothing.
LARGE = {"cpu": 100_000_000, "cuda": 500_000_000}
# From here on all contestants do not fit at once: a GPU's memory is that of the smallest there are.
CROWDED = {"cpu": math.inf, "cuda": 200_000_000}


@dataclass(frozen=True)
class RaceSettings:
    """What holds for every race of a run.

    Attributes:
        contestants: who takes part; None for those that suit the size.
        now: the time in seconds, against which a race's share of time is held.
    """

    device: torch.device
    backend: str
    contestants: tuple[str, ...] | None
    modes: tuple[str, ...]
    rounds: int | None = None
    now: Callable[[], float] = perf_counter

    def contestants_for(self, size: Size) -> tuple[str, ...]:
        """Who is to take part, whether or not it can on this machine."""
        if self.contestants is not None:
            return self.contestants
        return default_contestants(self.device.type, size.name)

    def rounds_for(self, size: Size) -> int:
        """Large sizes are quiet enough for few rounds on the CPU; a GPU can afford many."""
        if self.rounds is not None:
            return self.rounds
        if self.device.type == "cuda":
            return CUDA_ROUNDS
        return 15 if size.numel > 10_000_000 else 51

    def modes_for(self, size: Size) -> tuple[str, ...]:
        """Every mode, but for a model that nearly fills the memory."""
        return ("eager",) if size.numel >= LARGE[self.device.type] else self.modes

    def one_by_one(self, size: Size) -> bool:
        """Whether the states of all contestants do not fit the memory at once."""
        return size.numel >= CROWDED[self.device.type]

    def clock(self) -> Clock:
        """What times a step on this device."""
        return CudaClock(self.device) if self.device.type == "cuda" else CpuClock()
