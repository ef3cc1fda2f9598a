"""Every optimizer of the registry as the contract tests build it, with the twin beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

from support.cases import Site
from support.preconditioned_twin import twin_for
from support.rule_twin import RuleTwin
from support.side_by_side import SideBySide
from yfkernels import YellowFin
from yfkernels.lab.registry import VARIANTS, Registration, Variant


@dataclass(frozen=True)
class Kind:
    """An optimizer with options that suit small models, and the runner beside its oracle.

    Attributes:
        state: names of its per-parameter state.
        tunes: whether it finds its step size itself.
        measures: options with which a gradient that is not finite skips the step.
        core: whether it runs on all backends; all run on native.
    """

    name: str
    optimizer: type[Any]
    twin: Callable[..., SideBySide]
    state: frozenset[str]
    tunes: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    core: bool = False

    @property
    def robust(self) -> bool:
        """Whether this is YellowFin in its robust mode."""
        return self.optimizer is YellowFin and bool(self.options.get("robust", True))

    @property
    def preconditioned(self) -> bool:
        """Whether this is YellowFin with a preconditioner."""
        return self.robust and self.options.get("preconditioner", "auto") is not None

    @property
    def saves(self) -> str:
        """What the state_dict holds besides the state of each parameter."""
        return "tuner" if self.tunes else "gate"

    def __str__(self) -> str:
        return self.name

    def build(self, params: Any, **options: Any) -> Any:
        return self.optimizer(params, **{**self.options, **options})

    def beside(self, site: Site, *rest: Any, **options: Any) -> Any:
        """The optimizer and its oracle; steps that are not finite are skipped."""
        return self.twin(site, *rest, **{**self.options, **self.measures, **options})


CORE = ("YellowFin", "YellowFin-published")
# Where small models want other options than those a user would start from.
SUITED: dict[str, dict[str, Any]] = {
    "YellowFin-diagonal": {"decoupled_weight_decay": False},
    "YellowFin-trust": {"lr": 0.01},
    "QHM": {"lr": 0.1},
    "QHAdam": {"lr": 0.01},
    "QHAdam-bytes": {"lr": 0.01},
}
LEFT_OUT = ("LAMB-unclipped",)  # the passes of LAMB, but for the one that measures


def kinds() -> Iterator[Kind]:
    """Every variant in the registry."""
    for row, variant in VARIANTS:
        default = variant is row.variants[0]
        name = row.label if default else f"{row.label}-{variant.name}"
        if name not in LEFT_OUT:
            yield Kind(
                name,
                row.optimizer,
                twin_of(row, variant),
                variant.state,
                row.tunes_step,
                {**variant.options, **row.start, **SUITED.get(name, {})},
                skipping(row.optimizer),
                core=name in CORE,
            )


def twin_of(row: Registration, variant: Variant) -> Callable[..., SideBySide]:
    """The runner that knows its oracle."""
    if row.optimizer is not YellowFin:
        return partial(RuleTwin, row.optimizer)
    default = "compact" if variant.options.get("robust", True) else None
    return twin_for(variant.options, default)


def skipping(optimizer: type[Any]) -> dict[str, Any]:
    """Options with which it looks for gradients that are not finite; YellowFin always does."""
    asked = "skip_nonfinite" in signature(optimizer).parameters
    return {"skip_nonfinite": True} if asked else {}


KINDS = tuple(kinds())
