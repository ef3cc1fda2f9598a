"""Who takes part, each with the setting a user would start from or the grid it is tuned on."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from bench.convergence.tasks import TASKS
from yfkernels import YellowFin
from yfkernels.lab.workloads.contenders import in_words

Schedule = Callable[[int, int], float]  # steps taken and steps in all, to a multiplier of lr


@dataclass(frozen=True, eq=False)
class Recipe:
    """An optimizer with options.

    Attributes:
        name: of the optimizer, in the results.
        factory: makes it from a model and all the options.
        options: the ones a user would start from.
        schedule: of lr; None for a constant one.
        package: where it comes from, besides torch and ours.
        text: tells apart what the options do not.
    """

    name: str
    factory: Callable[..., Optimizer]
    options: Mapping[str, float] = field(default_factory=dict)
    schedule: Schedule | None = None
    package: str | None = None
    text: str = "defaults"

    def build(self, model: nn.Module, options: Mapping[str, float]) -> Optimizer:
        """The optimizer for a model's parameters; options not named stay."""
        return self.factory(model, **{**self.options, **options})

    def setting(self, options: Mapping[str, float]) -> str:
        """All the options in words; with the name it says what was trained."""
        return in_words({**self.options, **options}) or self.text


@dataclass(frozen=True)
class Axis:
    """An option and the values that are tried for it."""

    option: str
    values: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Contestant:
    """A row of the report.

    Attributes:
        label: name for people.
        recipe: the optimizer.
        search: options to tune, one after the other, each with the best of those before it.
        ours: whether the targets are for it.
    """

    label: str
    recipe: Recipe
    search: tuple[Axis, ...] = ()
    ours: bool = False

    @property
    def why_absent(self) -> str | None:
        """Why it cannot take part, or None if it can."""
        try:
            self.recipe.build(nn.Linear(2, 2), {})
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


def _yellowfin(**options: Any) -> Callable[..., Optimizer]:
    return lambda model: YellowFin(model.parameters(), **options)


_LRS = Axis("lr", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1))
_SGD_LRS = Axis("lr", (*_LRS.values, 0.3, 1.0))
_BETA1 = Axis("beta1", (0.0, 0.5, 0.9))
_ADAMW = Recipe("adamw", _adamw, {"lr": 1e-3, "beta1": 0.9})
_ADAMW_COSINE = Recipe("adamw-cosine", _adamw, {"lr": 1e-3, "beta1": 0.9}, cosine)
_SGD = Recipe("sgd", _sgd, {"lr": 0.1, "momentum": 0.9})


CONTESTANTS: dict[str, Contestant] = {
    "adamw": Contestant("AdamW", _ADAMW),
    "adamw-tuned": Contestant("AdamW, lr tuned", _ADAMW, (_LRS,)),
    "adamw-beta1": Contestant("AdamW, lr and beta1 tuned", _ADAMW, (_LRS, _BETA1)),
    "adamw-cosine": Contestant("AdamW, cosine, lr tuned", _ADAMW_COSINE, (_LRS,)),
    "sgd": Contestant("SGD with momentum", _SGD),
    "sgd-tuned": Contestant("SGD with momentum, lr tuned", _SGD, (_SGD_LRS,)),
    **{
        name: Contestant(label, Recipe(name, _from_package(package, optimizer), package=package))
        for name, label, package, optimizer in (
            ("prodigy", "Prodigy", "prodigyopt", "Prodigy"),
            ("schedulefree-sgd", "Schedule-free SGD", "schedulefree", "SGDScheduleFree"),
            ("schedulefree-adamw", "Schedule-free AdamW", "schedulefree", "AdamWScheduleFree"),
        )
    },
    **{
        name: Contestant(label, Recipe(name, factory), ours=True)
        for name, label, factory in (
            ("yellowfin-published", "YellowFin, published", _yellowfin(robust=False)),
            ("yellowfin-robust", "YellowFin, one step size", _yellowfin(preconditioner=None)),
            ("yellowfin-diagonal", "YellowFin, diagonal", _yellowfin(preconditioner="diagonal")),
            ("yellowfin-compact", "YellowFin, compact", _yellowfin()),
        )
    },
    # what a schedule adds: it needs to know the number of steps, so no target is for it
    "yellowfin-cosine": Contestant(
        "YellowFin, compact, cosine",
        Recipe("yellowfin-cosine", _yellowfin(), schedule=cosine),
    ),
}
REFERENCE = "adamw-tuned"  # what iterations are counted against
DEFAULT_RIVALS = ("adamw", "prodigy", "schedulefree-sgd", "schedulefree-adamw")  # nothing tuned


def register(source: str) -> None:
    """Adds the contestants, and the tasks if it has any, of a module outside this package.

    The module holds ``CONTESTANTS``, a dictionary from names to functions that take a model and
    return its optimizer; it may hold ``TASKS``, from names to `tasks.TaskSpec`. A digest of its
    text becomes the contestants' setting, so that what an earlier text gave is not taken for the
    present one's.

    Args:
        source: path of a Python file, or the import path of a module.

    Raises:
        ValueError: there is no such module, it has no such dictionary, or a name is taken.
    """
    module = _load(source)
    factories = getattr(module, "CONTESTANTS", None)
    if not isinstance(factories, Mapping) or module.__file__ is None:
        raise ValueError(
            f"{source} has no dictionary CONTESTANTS; "
            "write CONTESTANTS = {'name': lambda model: Optimizer(model.parameters())}"
        )
    tasks = getattr(module, "TASKS", {})
    taken = [*(factories.keys() & CONTESTANTS.keys()), *(tasks.keys() & TASKS.keys())]
    if taken:
        raise ValueError(f"{source} names {', '.join(taken)}, which exist; choose other names")
    digest = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()[:8]
    for name, factory in factories.items():
        recipe = Recipe(name, factory, text=f"source {digest}")
        CONTESTANTS[name] = Contestant(name, recipe, ours=True)
    TASKS.update(tasks)


def _load(source: str) -> ModuleType:
    path = Path(source)
    if path.suffix != ".py":
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ValueError(f"no module {source}: {error}") from None
    if not path.is_file():
        raise ValueError(f"no file {source}")
    spec = importlib.util.spec_from_file_location(f"outside_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
