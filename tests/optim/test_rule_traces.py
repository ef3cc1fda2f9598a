"""LAMB, QHM and QHAdam follow their float64 oracles, step by step: every option, every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from oracle.lamb import PRESETS
from support.cases import SMALL, Gradients, Group, Site, specs
from support.rule_twin import ORACLES, Optimizer, RuleTwin

from yfkernels import LAMB, QHM, QHAdam

SIX_STEPS = Gradients()
KINDS = tuple(ORACLES)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@dataclass(frozen=True)
class Case:
    """One trace: an optimizer and its options, parameter groups, gradients."""

    kind: Optimizer
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    gradients: Gradients = SIX_STEPS
    groups: tuple[Group, ...] = SMALL

    def __str__(self) -> str:
        return f"{self.kind.__name__}-{self.name}"


# What every optimizer takes; and the same in groups of one optimizer.
ANY = {
    "coupled decay": {"weight_decay": 0.1},
    "decoupled decay": {"weight_decay": 0.1, "decoupled_weight_decay": True, "lr": 0.05},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "maximize, decoupled": {
        "maximize": True,
        "weight_decay": 0.1,
        "decoupled_weight_decay": True,
    },
    "lr 0": {"lr": 0.0, "weight_decay": 0.1},
}
GROUPS = (
    Group(specs((4, 9), ()), {"lr": 0.3, "weight_decay": 0.05}),
    Group(specs((33,)), {"weight_decay": 0.02, "decoupled_weight_decay": True}),
    Group(specs((2, 2, 2)), {"maximize": True, "lr": 0.02}),
    Group(specs((6,)), {"lr": 0.0}),
)
OWN_LAMB = {
    "no clip": {"max_grad_norm": None},
    "clip 0 is none": {"max_grad_norm": 0.0},
    "clip 0.1": {"max_grad_norm": 0.1},
    "clip out of reach": {"max_grad_norm": 1e9},
    "always adapt, no decay": {"always_adapt": True, "weight_decay": 0.0},
    "no decay, no ratio": {"weight_decay": 0.0},
    "no bias correction": {"bias_correction": False},
    "bias correction of lr": {"bias_correction": "lr"},
    "no averaging": {"grad_averaging": False},
    "no averaging, no correction": {"grad_averaging": False, "bias_correction": False},
    "trust clip": {"trust_clip": 1.0},
    "trust clip pair": {"trust_clip": (0.9, 1.1)},
    "trust clip from below": {"trust_clip": (5.0, 8.0)},
    "norm bounds": {"trust_norm_bounds": (2.0, 3.0)},
    "norm bounds, both clips": {"trust_norm_bounds": (0.0, 1.0), "trust_clip": (0.05, 0.5)},
    "betas": {"betas": (0.5, 0.8)},
    "betas 0": {"betas": (0.0, 0.0)},
    "large eps": {"eps": 0.3},
    "large lr": {"lr": 0.5},
}
LAMB_GROUPS = (
    Group(specs((4, 9), ()), {"max_grad_norm": 0.5, "lr": 0.01, "always_adapt": True}),
    Group(specs((33,)), {"max_grad_norm": None, "bias_correction": "lr", "trust_clip": 0.5}),
    Group(specs((2, 2, 2)), {"max_grad_norm": 0.0, "weight_decay": 0.0, "betas": (0.8, 0.9)}),
    Group(specs((6,), (2,)), {"max_grad_norm": 2.0, "grad_averaging": False, "eps": 1e-3}),
    Group(specs((5,)), {"trust_norm_bounds": (0.1, 0.2), "bias_correction": False}),
)
OWN_QHM = {
    "nu 0": {"nu": 0.0},
    "nu 1": {"nu": 1.0, "beta": 0.9},
    "beta 0": {"beta": 0.0},
    "nu beyond 1": {"nu": 1.5, "beta": 0.9},
    "nu below 0": {"nu": -0.5, "beta": 0.9},
}
OWN_QHADAM = {
    "Adam": {"nus": (1.0, 1.0)},
    "NAdam": {"nus": (0.9, 1.0), "betas": (0.9, 0.999)},
    "nus 0": {"nus": (0.0, 0.0)},
    "nu2 0.5": {"nus": (0.7, 0.5)},
    "betas 0": {"betas": (0.0, 0.0)},
    "betas": {"betas": (0.5, 0.8)},
    "large eps": {"eps": 0.3, "lr": 0.1},
}
QUIET = dict.fromkeys(range(3), 0.0)
STORM = {1: 1e3, 3: 1e6, 4: 1e3, 5: 0.0}
POISON = {0: np.nan, 3: np.inf, 4: -np.inf}
COMES_AND_GOES = Gradients(8, present=lambda step, i: (step + i) % 3 != 0)
TRACES = {
    "storm": ({}, Gradients(8, factor=STORM), SMALL),
    "zeros first": ({}, Gradients(factor=QUIET), SMALL),
    "late gradient": (
        {"weight_decay": 0.1},
        Gradients(8, present=lambda step, i: i == 0 or step >= 4),
        SMALL,
    ),
    "gradients that come and go": ({"weight_decay": 0.1}, COMES_AND_GOES, GROUPS),
    "skips what is not finite": ({"skip_nonfinite": True}, Gradients(7, poison=POISON), SMALL),
    "square overflows float32": ({"skip_nonfinite": True}, Gradients(poison={3: 1e25}), SMALL),
    "capturable": (
        {"capturable": True, "skip_nonfinite": True},
        Gradients(7, poison=POISON),
        GROUPS,
    ),
    "groups": ({"weight_decay": 0.01}, SIX_STEPS, GROUPS),
}
CASES = [
    *(Case(kind, name, options) for kind in KINDS for name, options in ANY.items()),
    *(Case(kind, name, *rest) for kind in KINDS for name, rest in TRACES.items()),
    *(Case(LAMB, name, options) for name, options in OWN_LAMB.items()),
    *(Case(QHM, name, options) for name, options in OWN_QHM.items()),
    *(Case(QHAdam, name, options) for name, options in OWN_QHADAM.items()),
    Case(LAMB, "every option in groups", {}, Gradients(8, factor=STORM), LAMB_GROUPS),
    Case(LAMB, "clips, poisoned", {}, Gradients(8, poison=POISON), LAMB_GROUPS),
    Case(
        QHM,
        "every option in groups",
        {},
        groups=(Group(specs((4, 9)), {"nu": 0.0}), Group(specs((5,)), {"beta": 0.5, "nu": 1.0})),
    ),
    Case(
        QHAdam,
        "every option in groups",
        {},
        groups=(
            Group(specs((4, 9)), {"nus": (1.0, 1.0), "eps": 1e-3}),
            Group(specs((5,)), {"betas": (0.5, 0.6)}),
        ),
    ),
]


CASES += [
    Case(case.kind, f"{case.name}, 8 bits", {**case.options, "state_bits": 8}, *rest)
    for case in CASES
    if case.kind in (LAMB, QHAdam)
    for rest in [(case.gradients, case.groups)]
]


# What Triton's slow interpreter is given: traces in which every option occurs.
DENSE = ("every option in groups", "clips, poisoned", "gradients that come and go", "trust clip")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_follows_the_oracle(case: Case, site: Site, rng: np.random.Generator) -> None:
    if site.interpreted and case.name.removesuffix(", 8 bits") not in DENSE:
        pytest.skip("the dense traces are enough for the slow interpreter")
    RuleTwin(case.kind, site, case.groups, rng, **case.options).run(case.gradients, rng)


LONG = (
    Group(specs((6, 7), (19,)), {"weight_decay": 1e-3}),
    Group(specs((2, 3, 4)), {"lr": 2e-3, "weight_decay": 0.0}),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_preset(preset: str, dtype: torch.dtype, site: Site, rng: np.random.Generator) -> None:
    """50 steps of each: 1e-6 of the path in float32, 1e-12 in float64.

    Triton's slow interpreter takes 8 of them: its kernels have no memory but the state.
    """
    if site.interpreted and dtype == torch.float64:
        pytest.skip("float64 does not run in Triton")
    groups = (
        Group(specs((6, 7), (19,), dtype=dtype)),
        Group(specs((2, 3, 4), dtype=dtype), {"lr": 2e-3, "weight_decay": 0.02}),
        Group(specs((11,), dtype=dtype), {"weight_decay": 0.0}),
    )
    if site.interpreted:  # each tensor costs it milliseconds
        groups = (Group(specs((6, 7))), Group(specs((11,)), {"weight_decay": 0.0}))
    gradients = Gradients(
        8 if site.interpreted else 50,
        factor={3: 1e3, 30: 0.0},
        present=lambda step, i: i != 1 or step >= 5,
    )
    RuleTwin(LAMB, site, groups, rng, preset=preset).run(gradients, rng)


@pytest.mark.kernel_free
@each_kind
def test_long_trace(kind: Optimizer, site: Site, rng: np.random.Generator) -> None:
    """50 steps: spikes, silence, NaN, inf, a late parameter, one that pauses, two groups."""
    gradients = Gradients(
        50,
        factor={1: 1e3, 15: 1e4, 30: 0.0, 31: 0.0},
        poison={7: np.nan, 25: np.inf, 26: -np.inf},
        present=lambda step, i: not (i == 1 and step < 10) and not (i == 2 and 35 <= step < 42),
    )
    twin = RuleTwin(kind, site, LONG, rng, skip_nonfinite=True)
    twin.run(gradients, rng)
    assert twin.oracle.skipped_steps == 3


@pytest.mark.kernel_free
@each_kind
def test_settings_change_between_steps(
    kind: Optimizer, site: Site, rng: np.random.Generator
) -> None:
    """Schedulers and users write to param_groups; a group may also come late."""
    twin = RuleTwin(kind, site, GROUPS, rng)
    gradients = Gradients(4)
    twin.run(gradients, rng)
    twin.set_group(0, lr=0.01, weight_decay=0.0)
    twin.set_group(1, decoupled_weight_decay=False, lr=torch.tensor(0.02))
    twin.set_group(2, maximize=False)
    twin.run(gradients, rng)
    twin.add_group(Group(specs((8,)), {"lr": 0.03}), rng)
    twin.run(gradients, rng)
