"""The optimizers of the package: a new one is a row in KINDS, with a twin beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from cases import Target
from rule_twin import RuleTwin
from side_by_side import SideBySide
from training import Build, Model
from twin import Twin

from yfkernels import LAMB, QHM, QHAdam, YellowFin


@dataclass(frozen=True)
class Kind:
    """An optimizer with options that suit small models, and the runner beside its oracle.

    Attributes:
        measures: options with which a gradient that is not finite skips the step.
        state: names of its per-parameter state.
        quick: whether it stands for the others under Triton's slow interpreter.
    """

    name: str
    optimizer: type[Any]
    twin: Callable[..., SideBySide]
    state: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = True

    def __str__(self) -> str:
        return self.name

    def build(self, params: Any, **options: Any) -> Any:
        return self.optimizer(params, **{**self.options, **options})

    def beside(self, target: Target, *rest: Any, **options: Any) -> Any:
        """The optimizer and its oracle; steps that are not finite are skipped."""
        return self.twin(target, *rest, **{**self.options, **self.measures, **options})


EXACT = frozenset(("momentum_buffer", "grad_avg"))
MOMENTS = frozenset(("exp_avg", "exp_avg_sq", "step"))
BUFFER = frozenset(("momentum_buffer",))
SKIP = {"skip_nonfinite": True}
KINDS = (
    Kind("YellowFin", YellowFin, Twin, EXACT),
    Kind("YellowFin-sketch", YellowFin, Twin, BUFFER, {"variance": "sketch"}),
    Kind("YellowFin-trust", YellowFin, Twin, EXACT, {"trust_ratio": True, "lr": 0.01}, quick=False),
    Kind("LAMB", LAMB, partial(RuleTwin, LAMB), MOMENTS, {"lr": 0.01}, SKIP),
    Kind("QHM", QHM, partial(RuleTwin, QHM), BUFFER, {"lr": 0.1}, SKIP, quick=False),
    Kind("QHAdam", QHAdam, partial(RuleTwin, QHAdam), MOMENTS, {"lr": 0.01}, SKIP, quick=False),
)


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, target: Target) -> Kind:
    if target.interpreted and not request.param.quick:
        pytest.skip("YellowFin and LAMB stand for the others in the slow interpreter")
    return request.param


CONTRACT = [kind for kind in KINDS if kind.name != "YellowFin-sketch"]


@pytest.fixture(params=CONTRACT, ids=str)
def build(request: pytest.FixtureRequest, target: Target) -> Build:
    """The optimizer's constructor with the backend filled in."""
    return partial(request.param.build, backend=target.backend)


@pytest.fixture
def model(rng: np.random.Generator, target: Target) -> Model:
    torch.manual_seed(int(rng.integers(2**31)))
    return Model().to(target.device)
