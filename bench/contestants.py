"""Who takes part: one row per optimizer. A new optimizer is one more row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from bench.rivals import PerTensorYellowFin
from yfkernels import YellowFin

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


@dataclass(frozen=True)
class Contestant:
    """One optimizer in the race.

    Attributes:
        name: key used on the command line and in the results.
        label: name in tables and pictures.
        bytes_per_param: bytes that its passes over fp32 tensors read and write per parameter.
        make: builds it for a list of parameters.
        clip: whether `clip_grad_norm_` runs before each step.
        keeps_addresses: whether it remembers where gradients were, so that moved ones cost time.
        has_capturable: whether it takes a `capturable` argument.
        graphable: whether its step can be captured in a CUDA graph.
    """

    name: str
    label: str
    bytes_per_param: int
    make: Make
    clip: bool = False
    keeps_addresses: bool = False
    has_capturable: bool = False
    graphable: bool = True

    def step_function(self, optimizer: Steppable, params: list[Tensor]) -> Callable[[], object]:
        """Return what a training loop calls between backward and zero_grad."""
        if not self.clip:
            return optimizer.step

        def clip_and_step() -> None:
            clip_grad_norm_(params, CLIP_MAX_NORM)
            optimizer.step()

        return clip_and_step


def _yellowfin(variance: str) -> Make:
    return lambda params, build: YellowFin(
        params, variance=variance, backend=build.backend, capturable=build.capturable
    )


def _adamw(params: list[Tensor], build: Build) -> Steppable:
    return torch.optim.AdamW(params, fused=True, capturable=build.capturable)


def _sgd(*, fused: bool = False, foreach: bool = False) -> Make:
    return lambda params, build: torch.optim.SGD(
        params, lr=1e-3, momentum=0.9, fused=fused, foreach=foreach
    )


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        # 8 measure + 28 apply
        Contestant(
            "yellowfin-exact",
            "YellowFin exact",
            36,
            _yellowfin("exact"),
            keeps_addresses=True,
            has_capturable=True,
        ),
        # 4 measure + 20 apply
        Contestant(
            "yellowfin-sketch",
            "YellowFin sketch",
            24,
            _yellowfin("sketch"),
            keeps_addresses=True,
            has_capturable=True,
        ),
        Contestant("adamw-fused", "AdamW fused", 28, _adamw, has_capturable=True),
        Contestant(
            "adamw-fused+clip",
            "AdamW fused + clip",
            28 + CLIP_BYTES,
            _adamw,
            clip=True,
            has_capturable=True,
        ),
        Contestant("sgd-fused", "SGD-m fused", 20, _sgd(fused=True)),
        Contestant(
            "sgd-fused+clip", "SGD-m fused + clip", 20 + CLIP_BYTES, _sgd(fused=True), clip=True
        ),
        # 8 decay the buffer + 12 add g to it + 12 move p
        Contestant("sgd-foreach", "SGD-m foreach", 32, _sgd(foreach=True)),
        Contestant("sgd-loop", "SGD-m for-loop", 32, _sgd()),
        # 4 guard norm + 12 ‖g‖² + 20 average + 12 its norm + 32 for-loop SGD
        Contestant(
            "yellowfin-per-tensor",
            "YellowFin per tensor",
            80,
            lambda params, build: PerTensorYellowFin(params),
            graphable=False,
        ),
    )
}
