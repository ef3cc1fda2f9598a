"""Optimizers to drive, each with another that must end where it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from programs.mutants import BUILDS
from support.kinds import KINDS, Kind
from torch.optim import SGD, Adam, AdamW

from yfkernels import LAMB, QHM, QHAdam, WeightAverage, YellowFin

SINGLE = (torch.float32,) * 6 + (torch.float64, torch.complex64)
ANY = (*SINGLE, torch.bfloat16, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Pair:
    """An optimizer under test and its reference.

    Attributes:
        build: constructs the optimizer under test; takes `backend`, unless it is torch's own.
        rival: constructs the reference from torch.optim; None for the same optimizer on another
            backend.
        dtypes: of parameters, to draw from.
        can: what both of them can do, for the actions that ask for it: "convert" parameters that
            have state to another dtype, "lose" one state of a parameter, "skip" a step that is not
            finite.
        backend: of the optimizer under test; None for torch's own.
        tunes: its step size is measured, so that rounding is amplified.
    """

    name: str
    build: Callable[..., Any]
    rival: Callable[..., Any] | None = None
    dtypes: tuple[torch.dtype, ...] = ANY
    can: frozenset[str] = frozenset(("convert", "lose"))
    backend: str | None = "native"
    tunes: bool = False

    def subject(self, groups: list[dict[str, Any]]) -> Any:
        return self.build(groups, **({"backend": self.backend} if self.backend else {}))

    def reference(self, groups: list[dict[str, Any]]) -> Any:
        if self.rival is not None:
            return self.rival(groups)
        return self.build(groups, backend="torch" if self.backend != "torch" else "native")

    def on(self, backend: str) -> Pair:
        return replace(self, name=f"{self.name}@{backend}", backend=backend)


def _beside_torch() -> list[Pair]:
    step = {"lr": 0.05, "momentum": 0.9}
    decay = {"weight_decay": 0.02}
    adam = partial(QHAdam, nus=(1.0, 1.0), betas=(0.9, 0.999), lr=0.01)
    rivals = {
        "QHM.from_sgd": (partial(QHM.from_sgd, lr=0.05), partial(SGD, lr=0.05)),
        "QHM.from_momentum": (partial(QHM.from_momentum, **step), partial(SGD, **step)),
        "QHM.from_nesterov": (
            partial(QHM.from_nesterov, **step, **decay),
            partial(SGD, **step, **decay, nesterov=True),
        ),
        "QHM-up": (
            partial(QHM.from_momentum, **step, maximize=True),
            partial(SGD, **step, maximize=True),
        ),
        "Adam": (partial(adam, **decay), partial(Adam, lr=0.01, **decay)),
        "AdamW": (
            partial(adam, **decay, decoupled_weight_decay=True),
            partial(AdamW, lr=0.01, **decay),
        ),
    }
    # torch's Adam neither takes a state that lacks a part nor one of another dtype
    return [
        Pair(name, ours, theirs, SINGLE, frozenset(("lose",) if "QHM" in name else ()))
        for name, (ours, theirs) in rivals.items()
    ]


def _beside_another_backend() -> list[Pair]:
    half = (torch.bfloat16, torch.float16)
    pairs = [_pair_of(kind) for kind in KINDS]
    pairs += [
        Pair("LAMB-deepspeed", partial(LAMB, lr=0.01, preset="deepspeed")),
        Pair("LAMB-timm", partial(LAMB, lr=0.01, preset="timm", skip_nonfinite=True)),
        Pair("QHM-decoupled", partial(QHM, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True)),
        Pair("QHAdam-capturable", partial(QHAdam, lr=0.01, capturable=True)),
        Pair("QHM-averages", partial(QHM, lr=0.1, average=WeightAverage(power=1.0, every=2))),
        Pair("YellowFin-averages", partial(YellowFin, average=WeightAverage(every=2)), tunes=True),
        Pair(
            "YellowFin-groups",
            partial(YellowFin, tune="group"),
            can=frozenset(("convert", "lose", "skip")),
            tunes=True,
        ),
    ]
    kinds = pairs[: len(KINDS)]
    rounded = [replace(p, build=partial(p.build, stochastic_rounding=True)) for p in kinds]
    return pairs + [replace(p, name=f"{p.name}-rounds", dtypes=(*half, *ANY)) for p in rounded]


def _pair_of(kind: Kind) -> Pair:
    return Pair(
        kind.name,
        partial(kind.build, **kind.measures),
        can=frozenset(("convert", "lose", "skip")),
        tunes=kind.tunes,
    )


# The harness itself: torch's own through different but equivalent actions, and what must be found.
TORCH_ITSELF = tuple(
    Pair(name, build, build, SINGLE, frozenset(), None)
    for name, build in (
        ("torch-SGD", partial(SGD, lr=0.05, momentum=0.9)),
        ("torch-AdamW", partial(AdamW, lr=0.01)),
    )
)
SPOILT = tuple(
    Pair(name, build, build, SINGLE, frozenset(), None) for name, build in BUILDS.items()
)
NATIVE = (*_beside_torch(), *_beside_another_backend())
PLAIN = tuple(pair.on("torch") for pair in NATIVE)
INTERPRETED = tuple(pair.on("triton") for pair in NATIVE if "-" not in pair.name)
SETS = {"NATIVE": NATIVE, "PLAIN": PLAIN, "INTERPRETED": INTERPRETED, "TORCH": TORCH_ITSELF}
PAIRS = {pair.name: pair for pairs in (*SETS.values(), SPOILT) for pair in pairs}


def chosen(text: str) -> tuple[Pair, ...]:
    """Pairs by the name of their set, or by their own names with commas between."""
    return SETS.get(text) or tuple(PAIRS[name] for name in text.split(","))
