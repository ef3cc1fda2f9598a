"""Optimizers with the options they are trained with: what a comparison or benchmark builds."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from yfkernels.lab.registry import OPTIMIZERS, Factory, over_parameters


@dataclass(frozen=True, eq=False)
class Recipe:
    """An optimizer with its options, to be built for any model.

    Attributes:
        label: name for people.
        factory: makes the optimizer from a model and the options.
        options: what is set.
        batch_exponent: by the usual rule lr grows as the batch size to this power.
        given: those of the options the user asked for.
        unset: what `setting` says where no option is set.
    """

    label: str
    factory: Factory
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_exponent: float = 0.0
    given: Mapping[str, Any] = field(default_factory=dict)
    unset: str = "defaults"

    @property
    def setting(self) -> str:
        """The options in words; printed beside every result."""
        return in_words(self.options) or self.unset

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer for a model's parameters."""
        return self.factory(model, **self.options)

    def with_options(self, **options: Any) -> Recipe:
        """The same with other options; those not named here stay."""
        return replace(self, options={**self.options, **options})


# torch's run as its fused kernels, the fastest it has: same mathematics, fair times.
RECIPES: dict[str, Recipe] = {
    **{
        row.name: Recipe(row.label, row.factory, row.start, row.batch_exponent)
        for row in OPTIMIZERS
    },
    "adam": Recipe("Adam", over_parameters(Adam, fused=True), {"lr": 0.001}, 0.5),
    "adamw": Recipe("AdamW", over_parameters(AdamW, fused=True), {"lr": 0.001}, 0.5),
    "sgd": Recipe("SGD", over_parameters(SGD, fused=True), {"lr": 0.1, "momentum": 0.9}, 1.0),
}


def in_words(options: Mapping[str, Any]) -> str:
    """Such as "lr 0.1, momentum 0.9"."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


def read_recipe(text: str) -> Recipe:
    """Reads ``name`` or ``name:option=value,option=value``.

    Values are Python literals; a bare word is a string.

    Args:
        text: such as ``"sgd"`` or ``"lamb:lr=0.02,betas=(0.9,0.99),preset=timm"``.

    Raises:
        ValueError: no such optimizer, or it refuses the options.
    """
    name, _, settings = text.partition(":")
    return recipe_of(name, settings, options_of(settings))


def recipe_of(name: str, settings: str, given: Mapping[str, Any]) -> Recipe:
    """The recipe of a name, tried on a small model.

    Args:
        name: of `RECIPES`.
        settings: what the user wrote, for the error.
        given: the options.

    Raises:
        ValueError: no such optimizer, or it refuses the options.
    """
    name = name.strip().lower()
    if name not in RECIPES:
        raise ValueError(f"no optimizer {name!r}; choose from {', '.join(RECIPES)}")
    chosen = replace(RECIPES[name].with_options(**given), given=given)
    try:
        chosen.build(nn.Linear(1, 1))
    except TypeError as error:
        why = misread(error)
        raise ValueError(f"{chosen.label} refuses {settings!r}: {why}") from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{chosen.label} refuses {settings!r}: {error}") from error
    return chosen


def misread(error: TypeError) -> str:
    """What a user did who gave options that raise it."""
    return f"an option it does not have, or a value of another type ({error})"


def options_of(settings: str) -> dict[str, Any]:
    """Reads ``option=value,...`` as the arguments of a call, so that tuples may hold commas.

    Raises:
        ValueError: it cannot be read.
    """
    complaint = f"cannot read {settings!r}; write option=value,option=value"
    try:
        call = ast.parse(f"f({settings})", mode="eval").body
    except SyntaxError:
        raise ValueError(complaint) from None
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError(complaint)
    options = {}
    for keyword in call.keywords:
        value = keyword.value
        try:
            read = _word(value.id) if isinstance(value, ast.Name) else ast.literal_eval(value)
        except ValueError:
            raise ValueError(complaint) from None
        if keyword.arg is None:
            raise ValueError(complaint)
        options[keyword.arg] = read
    return options


def _word(word: str) -> Any:
    """A bare word is a string, except where it was meant for one of Python's constants."""
    return {"true": True, "false": False, "none": None}.get(word.lower(), word)
