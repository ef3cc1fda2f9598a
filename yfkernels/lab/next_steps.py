"""What to try next: the last lines of `yfkernels demo` and `yfkernels compare`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

import typer
from torch import nn

from yfkernels.lab.recipes import Recipe

AFTER_DEMO = "compare yellowfin adamw:lr=0.003 --seeds 3"


def tell_after_demo(recipes: Sequence[Recipe]) -> None:
    """Prints what to try after `yfkernels demo`, which trained these, the first to be shown."""
    _tell(
        ("your settings beside it", f"{_command()} {AFTER_DEMO}"),
        ("in your training loop", f"opt = {in_code(recipes[0])}"),
        ("how to go on", "docs/get-started.md"),
    )


def tell_after_compare(recipes: Sequence[Recipe], *, seeds: int, explain: bool) -> None:
    """Prints what to try after `yfkernels compare`.

    Args:
        recipes: what was compared; the first is shown in code.
        seeds: trainings of each.
        explain: whether their last steps were explained.
    """
    luck = ("a difference or luck", "the same with --seeds 3")
    network = ("on another network", "the same with --workload mnist-lstm")
    why = ("why the steps are what they are", "the same with --explain")
    _tell(
        luck if seeds == 1 else network,
        *(() if explain else (why,)),
        ("in your training loop", f"opt = {in_code(recipes[0])}"),
        ("which one to take, and when", "docs/guides/which-optimizer.md"),
    )


def in_code(recipe: Recipe) -> str:
    """The call that makes a recipe's optimizer for a `model`."""
    optimizer = recipe.build(nn.Linear(1, 1))
    package = "yfkernels" if type(optimizer).__module__.startswith("yfkernels") else "torch.optim"
    parameters = "model.parameters()"
    options = dict(recipe.options)
    if len(optimizer.param_groups) > 1:  # made by `param_groups`, the one with decay first
        weight_decay = optimizer.param_groups[0]["weight_decay"]
        parameters = f"yfkernels.param_groups(model, weight_decay={weight_decay})"
        options.pop("weight_decay", None)
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"{package}.{type(optimizer).__name__}({parameters}{given})"


def _command() -> str:
    """What starts this command from the user's shell, even outside of its environment."""
    if shutil.which("yfkernels"):
        return "yfkernels"
    return f"{min(sys.executable, os.path.relpath(sys.executable), key=len)} -m yfkernels"


def _tell(*steps: tuple[str, str]) -> None:
    """Prints what each step is for, and the step."""
    width = max(len(purpose) for purpose, _ in steps)
    typer.echo("Next:")
    for purpose, step in steps:
        typer.echo(f"  {purpose:{width}}  {step}")
