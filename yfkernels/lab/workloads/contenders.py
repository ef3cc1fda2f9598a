"""The optimizers that are compared, each with the setting a user would start from."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from yfkernels import LAMB, QHM, QHAdam, YellowFin
from yfkernels.optim.param_groups import param_groups

Factory = Callable[..., Optimizer]


@dataclass(frozen=True, eq=False)
class Contender:
    """An optimizer with its setting.

    Attributes:
        label: name for people.
        factory: makes the optimizer from a model and the options.
        options: what is set.
        batch_exponent: by the usual rule lr grows as the batch size to this power: 1 where the
            gradient is not rescaled, 1/2 where it is, 0 where lr multiplies a tuned step size.
        given: those of the options the user asked for.
    """

    label: str
    factory: Factory
    options: Mapping[str, Any]
    batch_exponent: float
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        """The options in words; printed beside every result."""
        return in_words(self.options) or "defaults"

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer for a model's parameters."""
        return self.factory(model, **self.options)

    def with_options(self, **options: Any) -> Contender:
        """The same with other options; those not named here stay."""
        return replace(self, options={**self.options, **options})


def in_words(options: Mapping[str, Any]) -> str:
    """Such as "lr 0.1, momentum 0.9"."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


def contender(text: str) -> Contender:
    """Reads ``name`` or ``name:option=value,option=value``.

    Values are Python literals; a bare word is a string.

    Args:
        text: such as ``"sgd"`` or ``"lamb:lr=0.02,betas=(0.9,0.99),preset=timm"``.

    Raises:
        ValueError: no such optimizer, or it refuses the options.
    """
    name, _, settings = text.partition(":")
    name = name.strip().lower()
    if name not in CONTENDERS:
        raise ValueError(f"no optimizer {name!r}; choose from {', '.join(CONTENDERS)}")
    given = _options(settings)
    chosen = replace(CONTENDERS[name].with_options(**given), given=given)
    try:
        chosen.build(nn.Linear(1, 1))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{chosen.label} refuses {settings!r}: {error}") from error
    return chosen


def _options(settings: str) -> dict[str, Any]:
    """Reads ``option=value,...`` as the arguments of a call, so that tuples may hold commas."""
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


def _over_parameters(optimizer: Callable[..., Optimizer], **fixed: Any) -> Factory:
    return lambda model, **options: optimizer(model.parameters(), **{**fixed, **options})


def _lamb(model: nn.Module, **options: Any) -> Optimizer:
    if "weight_decay" not in options:  # the default is the preset's
        options["weight_decay"] = LAMB(model.parameters(), **options).defaults["weight_decay"]
    return LAMB(param_groups(model, options["weight_decay"]), **options)


# torch's run as its fused kernels, the fastest it has: same mathematics, fair times.
CONTENDERS: dict[str, Contender] = {
    "yellowfin": Contender("YellowFin", _over_parameters(YellowFin), {}, 0.0),
    "lamb": Contender("LAMB", _lamb, {"lr": 0.01}, 0.5),
    "qhm": Contender("QHM", _over_parameters(QHM), {"lr": 1.0}, 1.0),
    "qhadam": Contender("QHAdam", _over_parameters(QHAdam), {"lr": 0.001}, 0.5),
    "adam": Contender("Adam", _over_parameters(Adam, fused=True), {"lr": 0.001}, 0.5),
    "adamw": Contender("AdamW", _over_parameters(AdamW, fused=True), {"lr": 0.001}, 0.5),
    "sgd": Contender("SGD", _over_parameters(SGD, fused=True), {"lr": 0.1, "momentum": 0.9}, 1.0),
}
