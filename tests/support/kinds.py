"""The optimizers of the package: a new one is a row in KINDS, with a twin beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from support.cases import Site
from support.preconditioned_twin import CompactTwin, PreconditionedTwin
from support.rule_twin import RuleTwin
from support.side_by_side import SideBySide
from support.twin import Twin
from yfkernels import LAMB, QHM, QHAdam, YellowFin


@dataclass(frozen=True)
class Kind:
    """An optimizer with options that suit small models, and the runner beside its oracle.

    Attributes:
        measures: options with which a gradient that is not finite skips the step.
        state: names of its per-parameter state.
        core: whether it runs on all backends; all run on native.
    """

    name: str
    optimizer: type[Any]
    twin: Callable[..., SideBySide]
    state: frozenset[str]
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
        return "tuner" if self.optimizer is YellowFin else "gate"

    def __str__(self) -> str:
        return self.name

    def build(self, params: Any, **options: Any) -> Any:
        return self.optimizer(params, **{**self.options, **options})

    def beside(self, site: Site, *rest: Any, **options: Any) -> Any:
        """The optimizer and its oracle; steps that are not finite are skipped."""
        return self.twin(site, *rest, **{**self.options, **self.measures, **options})


EXACT = frozenset(("momentum_buffer", "grad_avg"))
MOMENTS = frozenset(("exp_avg", "exp_avg_sq", "step"))
BUFFER = frozenset(("momentum_buffer",))
METRIC = frozenset(("momentum_buffer", "exp_avg_sq", "step"))
CODES = frozenset(("momentum_buffer", "exp_avg_sq_codes", "step"))
SKIP = {"skip_nonfinite": True}
SKETCH = {"variance": "sketch", "robust": False}
TRUST = {"trust_ratio": True, "robust": False}
DIAGONAL = {"preconditioner": "diagonal", "decoupled_weight_decay": False}
KINDS = (
    Kind("YellowFin", YellowFin, CompactTwin, CODES, core=True),
    Kind("YellowFin-robust", YellowFin, Twin, BUFFER, {"preconditioner": None}),
    Kind("YellowFin-published", YellowFin, Twin, EXACT, {"robust": False}, core=True),
    Kind("YellowFin-diagonal", YellowFin, PreconditionedTwin, METRIC, DIAGONAL),
    Kind("YellowFin-sketch", YellowFin, Twin, BUFFER, SKETCH),
    Kind("YellowFin-trust", YellowFin, Twin, EXACT, {**TRUST, "lr": 0.01}),
    Kind("LAMB", LAMB, partial(RuleTwin, LAMB), MOMENTS, {"lr": 0.01}, SKIP),
    Kind("QHM", QHM, partial(RuleTwin, QHM), BUFFER, {"lr": 0.1}, SKIP),
    Kind("QHAdam", QHAdam, partial(RuleTwin, QHAdam), MOMENTS, {"lr": 0.01}, SKIP),
)
