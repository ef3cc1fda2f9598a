"""A contestant of a race: how it is built, what a step of it is, which bytes it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from bench.common.contestant import Contestant

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLIP_MAX_NORM = 1.0
CLIP_BYTES = 12  # the norm reads g; the scaling reads and writes it


class Steppable(Protocol):
    """All that the benchmarks ask of an optimizer."""

    def step(self) -> object:
        """Update the parameters from their gradients."""


@dataclass(frozen=True)
class Build:
    """How an optimizer is to be built in this run."""

    backend: str = "auto"
    capturable: bool = False


Make = Callable[[list[Tensor], Build], Steppable]


@dataclass(frozen=True, eq=False, kw_only=True)
class RaceContestant(Contestant):
    """One optimizer in the race. Ours remember where gradients were, so moved ones cost time.

    Attributes:
        bytes_fp32: bytes that its passes read and write per parameter, all of it fp32.
        make: builds it for a list of parameters.
        bytes_bf16: the same for bf16 parameters and gradients; None where the state is of the
            parameters' dtype too, which halves everything.
        clip: whether `clip_grad_norm_` runs before each step.
        has_capturable: whether it takes a `capturable` argument.
        graphable: whether its step can be captured in a CUDA graph.
        essential: whether it stays when time is short, for targets compare it and it is quick.
        cpu_sizes: where it joins on a CPU without being named, if it needs a package.
    """

    bytes_fp32: int
    make: Make
    bytes_bf16: int | None = None
    clip: bool = False
    has_capturable: bool = False
    graphable: bool = True
    essential: bool = False
    cpu_sizes: tuple[str, ...] = ()

    def bytes_per_param(self, dtype: torch.dtype) -> int:
        """Counted traffic for parameters of a dtype in `DTYPES`."""
        if dtype == torch.float32:
            return self.bytes_fp32
        return self.bytes_fp32 // 2 if self.bytes_bf16 is None else self.bytes_bf16

    def step_function(self, optimizer: Steppable, params: list[Tensor]) -> Callable[[], object]:
        """Return what a training loop calls between backward and zero_grad."""
        if not self.clip:
            return optimizer.step

        def clip_and_step() -> None:
            clip_grad_norm_(params, CLIP_MAX_NORM)
            optimizer.step()

        return clip_and_step
