"""torch's own optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from bench.convergence.contestants.contestant import LRS, Axis, TrainingContestant, cosine
from yfkernels.lab.recipes import Recipe

_SGD_LRS = Axis("lr", (*LRS.values, 0.3, 1.0))
_BETA1 = Axis("beta1", (0.0, 0.5, 0.9))


def _adamw(model: nn.Module, *, lr: float, beta1: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr, betas=(beta1, 0.999), fused=True)


def _sgd(model: nn.Module, *, lr: float, momentum: float) -> Optimizer:
    return SGD(model.parameters(), lr=lr, momentum=momentum, fused=True)


def adamw() -> Iterator[TrainingContestant]:
    """At its default, and tuned."""
    row = TrainingContestant(
        "adamw",
        "AdamW",
        recipe=Recipe("AdamW", _adamw, {"lr": 1e-3, "beta1": 0.9}),
        optimizer="adamw",
    )
    yield row
    yield replace(row, name="adamw-tuned", label="AdamW (lr tuned)", search=(LRS,))
    yield replace(row, name="adamw-beta1", label="AdamW (lr and beta1 tuned)", search=(LRS, _BETA1))


def adamw_cosine() -> TrainingContestant:
    """With a schedule, which needs to know the number of steps."""
    return TrainingContestant(
        "adamw-cosine",
        "AdamW (cosine, lr tuned)",
        recipe=Recipe("AdamW", _adamw, {"lr": 1e-3, "beta1": 0.9}),
        optimizer="adamw-cosine",
        schedule=cosine,
        search=(LRS,),
    )


def sgd() -> Iterator[TrainingContestant]:
    """With momentum, at a usual rate, and tuned."""
    row = TrainingContestant(
        "sgd",
        "SGD with momentum",
        recipe=Recipe("SGD", _sgd, {"lr": 0.1, "momentum": 0.9}),
        optimizer="sgd",
    )
    yield row
    yield replace(row, name="sgd-tuned", label="SGD with momentum (lr tuned)", search=(_SGD_LRS,))
