"""Optimizers of other packages, at their defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

from torch import nn
from torch.optim import Optimizer

from bench.convergence.contestants.contestant import TrainingContestant
from yfkernels.lab.recipes import Recipe


def _from_package(module: str, name: str) -> Callable[..., Optimizer]:
    def build(model: nn.Module) -> Optimizer:
        optimizer: Optimizer = getattr(import_module(module), name)(model.parameters())
        return optimizer

    return build


def _row(name: str, label: str, package: str, optimizer: str) -> TrainingContestant:
    recipe = Recipe(label, _from_package(package, optimizer))
    return TrainingContestant(name, label, package=package, recipe=recipe, optimizer=name)


def prodigy() -> Iterator[TrainingContestant]:
    """Finds its learning rate."""
    yield _row("prodigy", "Prodigy", "prodigyopt", "Prodigy")


def schedule_free() -> Iterator[TrainingContestant]:
    """Those that keep an average themselves, and take their gradients between it and the weights."""
    for name, label, optimizer in (
        ("schedulefree-sgd", "Schedule-free SGD", "SGDScheduleFree"),
        ("schedulefree-adamw", "Schedule-free AdamW", "AdamWScheduleFree"),
    ):
        yield _row(name, label, "schedulefree", optimizer)
