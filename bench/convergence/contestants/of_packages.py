"""Optimizers of other packages, at their defaults."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from torch import nn
from torch.optim import Optimizer

from bench.convergence.contestants.contestant import TrainingContestant
from bench.convergence.contestants.told import with_told_loss
from yfkernels.lab.recipes import Recipe

PLUS = "AdamCScheduleFreePlusPaper"
# how to get what no release has
NOT_RELEASED = {
    PLUS: "pip install --no-deps --force-reinstall "
    "git+https://github.com/facebookresearch/schedule_free@70785b5"
}


def imported(package: str, module: str, name: str) -> Any:
    """A class of a package that may be missing.

    Raises:
        ImportError: the package is, or this release of it has no such class.
    """
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{package} is not installed ({error})") from None
    if not hasattr(found, name):
        advice = NOT_RELEASED.get(name, f"pip install --upgrade {package}")
        raise ImportError(f"this {package} has no {name}; {advice}")
    return getattr(found, name)


def _row(
    name: str, label: str, package: str, optimizer: str, module: str = "", **options: Any
) -> TrainingContestant:
    def build(model: nn.Module) -> Optimizer:
        kind = imported(package, module or package, optimizer)
        if optimizer == PLUS:
            kind = with_told_loss(kind)
        built: Optimizer = kind(model.parameters(), **options)
        return built

    recipe = Recipe(label, build)
    return TrainingContestant(name, label, package=package, recipe=recipe, optimizer=name)


def prodigy() -> TrainingContestant:
    """Finds its learning rate."""
    return _row("prodigy", "Prodigy", "prodigyopt", "Prodigy")


def adam_like() -> Iterator[TrainingContestant]:
    """Successors of Adam, with a learning rate that is given."""
    yield _row("ademamix", "AdEMAMix", "pytorch_optimizer", "AdEMAMix")
    yield _row("soap", "SOAP", "pytorch_optimizer", "SOAP")


def schedule_free() -> Iterator[TrainingContestant]:
    """They keep an average themselves, and take gradients between it and the weights."""
    yield _row("schedulefree-sgd", "Schedule-free SGD", "schedulefree", "SGDScheduleFree")
    yield _row("schedulefree-adamw", "Schedule-free AdamW", "schedulefree", "AdamWScheduleFree")
    yield _row("schedulefree-plus", "ScheduleFree+", "schedulefree", PLUS)
    yield _row(
        "prodigy-plus",
        "ProdigyPlus schedule-free",
        "prodigy-plus-schedule-free",
        "ProdigyPlusScheduleFree",
        module="prodigyplus",
        split_groups=False,  # as it does itself where there is one group, but says so every time
    )
