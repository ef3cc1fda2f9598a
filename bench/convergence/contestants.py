"""Who takes part in the trainings, with the setting a user would start from or a grid to tune."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from bench.common.contestant import Contestant
from yfkernels.lab.recipes import RECIPES, Recipe
from yfkernels.lab.registry import VARIANTS

Schedule = Callable[[int, int], float]  # steps taken and steps in all, to a multiplier of lr


@dataclass(frozen=True)
class Axis:
    """An option and the values that are tried for it."""

    option: str
    values: tuple[float, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingContestant(Contestant):
    """A row of the report. If it is ours, targets are for it.

    Attributes:
        recipe: the optimizer with the options a user would start from.
        optimizer: its name in the stored trainings, which contestants share that differ only in
            the options they find.
        schedule: of lr; None for a constant one.
        search: options to tune, one after the other, each with the best of those before it.
    """

    recipe: Recipe
    optimizer: str
    schedule: Schedule | None = None
    search: tuple[Axis, ...] = ()

    @property
    def why_absent(self) -> str | None:
        """Why it cannot take part, or None if it can."""
        try:
            self.recipe.build(nn.Linear(2, 2))
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return None


def cosine(taken: int, steps: int) -> float:
    """From 1 down to 0 along half a wave."""
    return 0.5 * (1.0 + math.cos(math.pi * taken / steps))


def _adamw(model: nn.Module, *, lr: float, beta1: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr, betas=(beta1, 0.999), fused=True)


def _sgd(model: nn.Module, *, lr: float, momentum: float) -> Optimizer:
    return SGD(model.parameters(), lr=lr, momentum=momentum, fused=True)


def _from_package(module: str, name: str) -> Callable[..., Optimizer]:
    def build(model: nn.Module) -> Optimizer:
        optimizer: Optimizer = getattr(import_module(module), name)(model.parameters())
        return optimizer

    return build


_LRS = Axis("lr", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1))
_SGD_LRS = Axis("lr", (*_LRS.values, 0.3, 1.0))
_BETA1 = Axis("beta1", (0.0, 0.5, 0.9))


def _of_torch() -> Iterator[TrainingContestant]:
    adamw = TrainingContestant(
        "adamw",
        "AdamW",
        recipe=Recipe("AdamW", _adamw, {"lr": 1e-3, "beta1": 0.9}),
        optimizer="adamw",
    )
    yield adamw
    yield replace(adamw, name="adamw-tuned", label="AdamW (lr tuned)", search=(_LRS,))
    yield replace(
        adamw, name="adamw-beta1", label="AdamW (lr and beta1 tuned)", search=(_LRS, _BETA1)
    )
    yield replace(
        adamw,
        name="adamw-cosine",
        label="AdamW (cosine, lr tuned)",
        optimizer="adamw-cosine",
        schedule=cosine,
        search=(_LRS,),
    )
    sgd = TrainingContestant(
        "sgd",
        "SGD with momentum",
        recipe=Recipe("SGD", _sgd, {"lr": 0.1, "momentum": 0.9}),
        optimizer="sgd",
    )
    yield sgd
    yield replace(sgd, name="sgd-tuned", label="SGD with momentum (lr tuned)", search=(_SGD_LRS,))


def _of_packages() -> Iterator[TrainingContestant]:
    for name, label, package, optimizer in (
        ("prodigy", "Prodigy", "prodigyopt", "Prodigy"),
        ("schedulefree-sgd", "Schedule-free SGD", "schedulefree", "SGDScheduleFree"),
        ("schedulefree-adamw", "Schedule-free AdamW", "schedulefree", "AdamWScheduleFree"),
    ):
        recipe = Recipe(label, _from_package(package, optimizer))
        yield TrainingContestant(name, label, package=package, recipe=recipe, optimizer=name)


def _ours() -> Iterator[TrainingContestant]:
    """Every optimizer in the registry that needs no learning rate."""
    for row, variant in VARIANTS:
        if row.tunes_step and variant.is_trained:
            key = row.key_of(variant)
            recipe = Recipe(row.label, partial(row.factory, **variant.options), row.start)
            yield TrainingContestant(
                key, row.label_of(variant), ours=True, recipe=recipe, optimizer=key
            )


def _with_cosine() -> TrainingContestant:
    """What a schedule adds: it needs to know the number of steps, so no target is for it."""
    return TrainingContestant(
        "yellowfin-cosine",
        "YellowFin (default, cosine)",
        recipe=RECIPES["yellowfin"],
        optimizer="yellowfin-cosine",
        schedule=cosine,
    )


CONTESTANTS: dict[str, TrainingContestant] = {
    contestant.name: contestant
    for contestant in (*_of_torch(), *_of_packages(), *_ours(), _with_cosine())
}
REFERENCE = "adamw-tuned"  # what iterations are counted against
DEFAULT_RIVALS = ("adamw", "prodigy", "schedulefree-sgd", "schedulefree-adamw")  # nothing tuned
