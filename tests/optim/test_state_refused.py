"""load_state_dict refuses what does not fit, and nothing has changed then."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits
from support.cut_training import ROUNDS, Training
from support.kinds import KINDS, Kind

from yfkernels import LAMB, QHM, QHAdam, YellowFin

pytestmark = pytest.mark.kernel_free


def _another_count(state: dict[str, Any], kind: Kind) -> str:
    state["param_groups"][0]["params"] = [0, 1]
    return "parameter"


def _missing_group(state: dict[str, Any], kind: Kind) -> str:
    state["param_groups"].pop()
    return "group"


def _another_shape(state: dict[str, Any], kind: Kind) -> str:
    name = min(kind.state)
    state["state"][0][name] = torch.zeros(3, 40)
    return name


def _another_size(state: dict[str, Any], kind: Kind) -> str:
    name = max(kind.state)
    state["state"][0][name] = torch.zeros(5)
    return name


def _missing_buffer(state: dict[str, Any], kind: Kind) -> str:
    name, held = max(kind.state), state["state"][0]
    if len(kind.state) == 1:
        pytest.skip("what is left is a user's own state of a parameter that has not begun")
    held["another"] = held.pop(name)
    return name


def _no_global_state(state: dict[str, Any], kind: Kind) -> str:
    if kind.saves == "gate":
        pytest.skip("a gate that is missing takes its default")
    del state["param_groups"][0][kind.saves]
    return kind.saves


def _short_global_state(state: dict[str, Any], kind: Kind) -> str:
    group, name = state["param_groups"][0], kind.saves
    group[name] = group[name][:-1]
    return name


def _another_version(state: dict[str, Any], kind: Kind) -> str:
    if kind.optimizer is not YellowFin:
        pytest.skip("what it saves has no version")
    state["param_groups"][0]["tuner"][0] = 99.0
    return "99"


def _bad_option(state: dict[str, Any], kind: Kind) -> str:
    groups = state["param_groups"]
    groups[-1]["weight_decay"] = math.nan
    return f"weight_decay.*nan.*parameter group {len(groups) - 1}"


def _no_groups(state: dict[str, Any], kind: Kind) -> str:
    del state["param_groups"]
    return "param_groups"


@pytest.mark.parametrize(
    "spoil",
    [
        _another_count,
        _missing_group,
        _another_shape,
        _another_size,
        _missing_buffer,
        _no_global_state,
        _short_global_state,
        _another_version,
        _bad_option,
        _no_groups,
    ],
)
def test_refuses_a_state_that_does_not_fit(
    spoil: Callable[[dict[str, Any], Kind], str],
    kind: Kind,
    site: Site,
    rng: np.random.Generator,
) -> None:
    run = Training(kind, site, rng, torch.float32)
    run.train(run.optimizer, run.params, 0, 5)
    params = run.copy_params()
    optimizer = run.build(params)
    run.train(optimizer, params, 0, 3)
    before = copy.deepcopy((optimizer.state_dict(), [p.detach() for p in params]))
    bad = copy.deepcopy(run.optimizer.state_dict())
    named = spoil(bad, kind)
    with pytest.raises((ValueError, RuntimeError, TypeError, KeyError), match=named):
        optimizer.load_state_dict(bad)
    assert_same_bits(before, (optimizer.state_dict(), [p.detach() for p in params]), "unchanged")
    run.train(optimizer, params, 3, 12)  # and it still works


@pytest.mark.parametrize(
    "options", [{"window": 7}, {"variance": "sketch", "robust": False}, {"robust": False}], ids=str
)
def test_refuses_the_state_of_other_options(
    options: dict[str, Any], site: Site, rng: np.random.Generator
) -> None:
    """The window is a ring, the sketch replaces a buffer, the robust mode has sums of its own."""
    run = Training(KINDS[0], site, rng, torch.float32)
    run.train(run.optimizer, run.params, 0, 5)
    groups = [{"params": run.params[:1]}, {"params": run.params[1:]}]
    other = YellowFin(groups, backend=site.backend, **options)
    named = "robust" if "robust" in options else "window"
    with pytest.raises((ValueError, RuntimeError), match=named):
        other.load_state_dict(run.optimizer.state_dict())


@pytest.mark.parametrize(
    ("saved", "loading", "named"),
    [
        ({}, {"log_smooth": False}, "log_smooth=False"),
        ({"robust": False}, {"robust": False, "log_smooth": False}, "log_smooth=False"),
        ({"robust": False}, {"robust": False, "momentum_form": "polyak"}, "momentum_form='polyak'"),
    ],
    ids=str,
)
def test_refuses_numbers_of_another_meaning(
    saved: dict[str, Any], loading: dict[str, Any], named: str
) -> None:
    """Averages of logarithms read as averages, or velocities as sums of gradients."""
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    first = YellowFin([p], **saved)
    first.step()
    with pytest.raises(RuntimeError, match=f"{named}: construct it as it was"):
        YellowFin([p], **loading).load_state_dict(first.state_dict())


def test_masters_begin_as_their_parameters(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Saved with stochastic rounding, which needs none."""
    rounded = Training(kind, site, rng, torch.bfloat16, **ROUNDS)
    rounded.train(rounded.optimizer, rounded.params, 0, 3)
    params = rounded.copy_params()
    other = Training(kind, site, rng, torch.bfloat16).build(params)
    other.load_state_dict(rounded.optimizer.state_dict())
    for p in params:
        p.grad = None
    params[0].grad = torch.zeros_like(params[0])
    before = params[0].detach().clone()
    other.param_groups[0]["lr"] = 0.0
    other.step()
    assert_same_bits(other.state[params[0]]["master"].to(before.dtype), before)


def test_refuses_the_state_of_another_optimizer(kind: Kind, site: Site) -> None:
    p = torch.nn.Parameter(torch.ones(3, device=site.device))
    sgd = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    p.grad = torch.ones_like(p)
    sgd.step()
    with pytest.raises(RuntimeError, match=kind.optimizer.__name__):
        kind.build([p], backend=site.backend).load_state_dict(sgd.state_dict())


@pytest.mark.parametrize(
    ("saved", "loading", "missing"),
    [(LAMB, QHAdam, "nus"), (QHAdam, LAMB, "trust_norm_bounds"), (QHM, YellowFin, "tuner")],
)
def test_refuses_the_state_of_a_sibling(saved: Any, loading: Any, missing: str) -> None:
    """Names, shapes and gate agree; only the groups' options tell them apart."""
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    first = saved([p])
    first.step()
    with pytest.raises(
        RuntimeError,
        match=rf"{missing}.*yfkernels\.{loading.__name__}|yfkernels\.{loading.__name__}.*{missing}",
    ):
        loading([p]).load_state_dict(first.state_dict())


def test_masters_may_be_given_up(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """A run with masters goes on with stochastic rounding, and keeps none."""
    mastered = Training(kind, site, rng, torch.bfloat16)
    mastered.train(mastered.optimizer, mastered.params, 0, 3)
    rounded = Training(kind, site, rng, torch.bfloat16, **ROUNDS)
    rounded.optimizer.load_state_dict(mastered.optimizer.state_dict())
    rounded.train(rounded.optimizer, rounded.params, 3, 6)
    states = rounded.optimizer.state_dict()["state"].values()
    assert states
    assert all("master" not in state and "step" in state for state in states)
