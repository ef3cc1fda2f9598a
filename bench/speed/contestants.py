"""Who takes part: one row per optimizer. A new optimizer is one more row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

import yfkernels
from bench.speed.rivals import PerTensorYellowFin, packages

CLIP_MAX_NORM = 1.0
CLIP_BYTES = 12  # the norm reads g; the scaling reads and writes it
_COMPARED_ON_CPU = ("1x50M", "400x64")  # where targets hold ours against rivals of other packages


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
        bytes_fp32: bytes that its passes read and write per parameter, all of it fp32.
        make: builds it for a list of parameters.
        bytes_bf16: the same for bf16 parameters and gradients; None where the state is of the
            parameters' dtype too, which halves everything.
        package: what has to be installed besides torch.
        clip: whether `clip_grad_norm_` runs before each step.
        keeps_addresses: whether it remembers where gradients were, so that moved ones cost time.
        has_capturable: whether it takes a `capturable` argument.
        graphable: whether its step can be captured in a CUDA graph.
        essential: whether it stays when time is short, for targets compare it and it is quick.
        cpu_sizes: where it joins on a CPU without being named, if it needs a package.
    """

    name: str
    label: str
    bytes_fp32: int
    make: Make
    bytes_bf16: int | None = None
    package: str | None = None
    clip: bool = False
    keeps_addresses: bool = False
    has_capturable: bool = False
    graphable: bool = True
    essential: bool = False
    cpu_sizes: tuple[str, ...] = ()

    def bytes_per_param(self, dtype: torch.dtype) -> int:
        """Counted traffic for parameters of a dtype in `DTYPES`."""
        if dtype == torch.float32:
            return self.bytes_fp32
        return self.bytes_fp32 // 2 if self.bytes_bf16 is None else self.bytes_bf16

    @property
    def ours(self) -> bool:
        """Whether it is of this package: only those remember addresses."""
        return self.keeps_addresses

    @property
    def why_absent(self) -> str | None:
        """Why it cannot take part on this machine, or None."""
        if self.package is None or find_spec(self.package):
            return None
        return f"{self.package} is not installed"

    def step_function(self, optimizer: Steppable, params: list[Tensor]) -> Callable[[], object]:
        """Return what a training loop calls between backward and zero_grad."""
        if not self.clip:
            return optimizer.step

        def clip_and_step() -> None:
            clip_grad_norm_(params, CLIP_MAX_NORM)
            optimizer.step()

        return clip_and_step


def _yellowfin(**options: Any) -> Make:
    return lambda params, build: yfkernels.YellowFin(
        params, backend=build.backend, capturable=build.capturable, **options
    )


def _lamb(max_grad_norm: float | None) -> Make:
    return lambda params, build: yfkernels.LAMB(
        params, max_grad_norm=max_grad_norm, backend=build.backend, capturable=build.capturable
    )


def _qhm(params: list[Tensor], build: Build) -> Steppable:
    return yfkernels.QHM(params, backend=build.backend, capturable=build.capturable)


def _qhadam(params: list[Tensor], build: Build) -> Steppable:
    return yfkernels.QHAdam(params, backend=build.backend, capturable=build.capturable)


def _adamw(params: list[Tensor], build: Build) -> Steppable:
    return torch.optim.AdamW(params, fused=True, capturable=build.capturable)


def _sgd(*, fused: bool = False, foreach: bool = False) -> Make:
    return lambda params, build: torch.optim.SGD(
        params, lr=1e-3, momentum=0.9, fused=fused, foreach=foreach
    )


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        # fp32: 4 measure + 20 advance; bf16: 2 + 22, of which 8 are the fp32 master copy
        Contestant(
            "yellowfin-robust",
            "YellowFin robust",
            24,
            _yellowfin(preconditioner=None),
            bytes_bf16=24,
            keeps_addresses=True,
            has_capturable=True,
            essential=True,
        ),
        # Adam's columns. fp32: 4 measure + 28 advance; bf16: 2 + 30
        Contestant(
            "yellowfin-diagonal",
            "YellowFin diagonal",
            32,
            _yellowfin(preconditioner="diagonal"),
            bytes_bf16=32,
            keeps_addresses=True,
            has_capturable=True,
            essential=True,
        ),
        # as it comes: the squares in a byte. fp32: 4 measure + 22 advance; bf16: 2 + 24
        Contestant(
            "yellowfin-compact",
            "YellowFin compact",
            26,
            _yellowfin(),
            bytes_bf16=26,
            keeps_addresses=True,
            has_capturable=True,
            essential=True,
        ),
        # as published. fp32: 8 measure + 28 advance; bf16: 6 + 30
        Contestant(
            "yellowfin-exact",
            "YellowFin exact",
            36,
            _yellowfin(variance="exact", robust=False),
            bytes_bf16=36,
            keeps_addresses=True,
            has_capturable=True,
            essential=True,
        ),
        # fp32: 4 measure + 20 advance; bf16: 2 + 22
        Contestant(
            "yellowfin-sketch",
            "YellowFin sketch",
            24,
            _yellowfin(variance="sketch", robust=False),
            bytes_bf16=24,
            keeps_addresses=True,
            has_capturable=True,
            essential=True,
        ),
        # fp32: 4 clip + 24 moments and norms + 16 move; bf16: 2 + 24 + 20, with the master copy
        Contestant(
            "lamb",
            "LAMB",
            44,
            _lamb(CLIP_MAX_NORM),
            bytes_bf16=46,
            keeps_addresses=True,
            has_capturable=True,
            essential=True,
        ),
        Contestant(
            "lamb-unclipped",
            "LAMB, no clip",
            40,
            _lamb(None),
            bytes_bf16=44,
            keeps_addresses=True,
            has_capturable=True,
            essential=True,
        ),
        # one pass, as SGD-m and AdamW fused; bf16: fp32 state and master copy
        Contestant(
            "qhm",
            "QHM",
            20,
            _qhm,
            bytes_bf16=22,
            keeps_addresses=True,
            has_capturable=True,
            essential=True,
        ),
        Contestant(
            "qhadam",
            "QHAdam",
            28,
            _qhadam,
            bytes_bf16=30,
            keeps_addresses=True,
            has_capturable=True,
        ),
        Contestant("adamw-fused", "AdamW fused", 28, _adamw, has_capturable=True, essential=True),
        Contestant(
            "adamw-fused+clip",
            "AdamW fused + clip",
            28 + CLIP_BYTES,
            _adamw,
            clip=True,
            has_capturable=True,
            essential=True,
        ),
        Contestant("sgd-fused", "SGD-m fused", 20, _sgd(fused=True), essential=True),
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
        # 4 clip + 4 ‖p‖ + 28 moments, and the update stored over g + 4 its norm + 12 move p
        Contestant(
            "apex-lamb", "apex FusedLAMB", 52, packages.apex_lamb, package="apex", graphable=False
        ),
        # the state stays fp32
        Contestant(
            "apex-adam",
            "apex FusedAdam",
            28,
            lambda params, build: packages.apex_adam(params, capturable=build.capturable),
            bytes_bf16=22,
            package="apex",
            has_capturable=True,
        ),
        Contestant(
            "apex-sgd", "apex FusedSGD-m", 20, packages.apex_sgd, package="apex", graphable=False
        ),
        Contestant(
            "deepspeed-adam",
            "DeepSpeed FusedAdam",
            28,
            packages.deepspeed_adam,
            package="deepspeed",
            graphable=False,
        ),
        # a byte each for both moments; tensors below 4096 elements keep them in fp32
        Contestant(
            "bnb-adamw8bit",
            "bitsandbytes AdamW8bit",
            16,
            packages.bnb_adamw8bit,
            bytes_bf16=10,
            package="bitsandbytes",
            graphable=False,
        ),
        # 8 decay p + 12 m + 8 and 12 v + 8, 8, 8 denominator + 16 move p
        Contestant(
            "timm-adamw", "timm AdamW", 80, packages.timm_adamw, package="timm", graphable=False
        ),
        # 8 decay p + 8 and 12 buffer + 12 move p
        Contestant("timm-sgdw", "timm SGDW foreach", 40, packages.timm_sgdw, package="timm"),
        # 4 clip, 8 + 12 m + 8, 12 v + 8, 8 denominator + 12, 12 update + 8 norms + 12 move p
        Contestant(
            "timm-lamb",
            "timm LAMB foreach",
            104,
            packages.timm_lamb,
            package="timm",
            graphable=False,
            cpu_sizes=_COMPARED_ON_CPU,
        ),
        # no clip. 8 decay p + 8, 12 m + 8, 12 v + 8, 8, 8, 12 update + 8 norms + 8, 12 move p
        Contestant(
            "pytorch-optimizer-lamb",
            "pytorch_optimizer LAMB foreach",
            112,
            packages.pytorch_optimizer_lamb(foreach=True),
            package="pytorch_optimizer",
            graphable=False,
            cpu_sizes=_COMPARED_ON_CPU,
        ),
        # no clip. 8 decay p + 8, 12 m + 8, 12 v + 8, 8, 12 update + 8 norms + 12 move p
        Contestant(
            "pytorch-optimizer-lamb-loop",
            "pytorch_optimizer LAMB for-loop",
            96,
            packages.pytorch_optimizer_lamb(foreach=False),
            package="pytorch_optimizer",
            graphable=False,
            cpu_sizes=_COMPARED_ON_CPU,
        ),
        # no clip. 8, 12 m + 8, 12 v + 8, 8, 12, 12 update + 8 norms + 12 move p
        Contestant(
            "torch-optimizer-lamb",
            "torch_optimizer LAMB",
            100,
            packages.torch_optimizer_lamb,
            package="torch_optimizer",
            graphable=False,
            cpu_sizes=_COMPARED_ON_CPU,
        ),
        # 8, 12 d + 12, 12 move p
        Contestant(
            "qhoptim-qhm",
            "qhoptim QHM",
            44,
            packages.qhoptim_qhm,
            package="qhoptim",
            graphable=False,
            cpu_sizes=_COMPARED_ON_CPU,
        ),
        # 8, 12 m + 8, 8, 12 v + 8, 12 numerator + 8, 8, 8 denominator + 16 move p
        Contestant(
            "qhoptim-qhadam",
            "qhoptim QHAdam",
            108,
            packages.qhoptim_qhadam,
            package="qhoptim",
            graphable=False,
            cpu_sizes=_COMPARED_ON_CPU,
        ),
        # the other self-tuning one. 12, 8 numerator + 20 m + 20 v + 20 s + 12 |s| + 16, 16
        Contestant(
            "prodigy",
            "Prodigy (pytorch_optimizer)",
            124,
            packages.prodigy,
            package="pytorch_optimizer",
            graphable=False,
        ),
    )
}

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def default_contestants(device_type: str, size_name: str) -> tuple[str, ...]:
    """Who takes part where nobody is named.

    Those of other packages are there to be beaten on a GPU; on a CPU, where most of them take many
    times as long, they join where a target compares them.
    """
    return tuple(
        name
        for name, row in CONTESTANTS.items()
        if device_type == "cuda" or row.package is None or size_name in row.cpu_sizes
    )
