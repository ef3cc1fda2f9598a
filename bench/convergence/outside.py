"""Contestants and tasks of modules outside this package, for `--module`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bench.convergence.contestants import CONTESTANTS
from bench.convergence.contestants.contestant import TrainingContestant
from bench.convergence.tasks import TASKS, add_cifar
from yfkernels.lab.recipes import Recipe


@dataclass(frozen=True)
class Outside:
    """What every process has to load besides this package."""

    modules: Sequence[str] = ()
    data: Path | None = None

    def load(self) -> dict[str, str]:
        """Adds it to the registries; of the tasks that cannot be built, why they are absent.

        Raises:
            ValueError: a module cannot be used.
        """
        absent: dict[str, str] = {}
        for module in self.modules:
            absent |= register(module)
        return absent | add_cifar(self.data)


def register(source: str) -> dict[str, str]:
    """Adds the contestants, and the tasks if it has any, of a module outside this package.

    The module holds ``CONTESTANTS``, a dictionary from names to functions that take a model and
    return its optimizer; it may hold ``TASKS``, from names to `tasks.TaskSpec`. A digest of its
    text becomes the contestants' setting, so that what an earlier text gave is not taken for the
    present one's. Each takes part with the average of its weights, too.

    Args:
        source: path of a Python file, or the import path of a module.

    Returns:
        Its ``ABSENT`` if it has any: tasks it lacks here, and why.

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
    rows = [
        TrainingContestant(name, name, ours=True, recipe=recipe, optimizer=name)
        for name, factory in factories.items()
        for recipe in [Recipe(name, factory, unset=f"source {digest}")]
    ]
    CONTESTANTS.update({row.name: row for row in rows})
    CONTESTANTS.update({row.name: row for row in (row.with_average() for row in rows)})
    TASKS.update(tasks)
    return dict(getattr(module, "ABSENT", {}))


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
