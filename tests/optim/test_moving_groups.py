"""`tune="group"`: groups that programs take out, put back, move, copy and add."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.cases import Site
from torch import nn

from yfkernels import YellowFin
from yfkernels.tuners.yellowfin import YellowFinTuner


def steps_of(optimizer: YellowFin) -> list[float]:
    return [optimizer.diagnostics(group)["step"] for group in range(len(optimizer.param_groups))]


class Each:
    """A parameter a group, in place of models; each has taken one step more than the one before."""

    def __init__(self, site: Site, count: int = 2) -> None:
        self.params = [nn.Parameter(torch.randn(5, device=site.device)) for _ in range(count)]
        groups = [{"params": [p]} for p in self.params]
        # codes are rounded by bits that depend on the place
        options = {"backend": site.backend, "preconditioner": "diagonal"}
        self.optimizer = YellowFin(groups, tune="group", **options)
        for index in range(count):
            self.step(self.params[index:])
        self.lrs = self.shown()

    def step(self, params: Sequence[nn.Parameter]) -> None:
        for p in self.params:
            p.grad = torch.randn_like(p) if any(p is each for each in params) else None
        self.optimizer.step()

    def shown(self) -> list[float]:
        return [float(group["tuned_lr"]) for group in self.optimizer.param_groups]

    def add(self, like: Any = ()) -> None:
        self.params.append(nn.Parameter(torch.randn_like(self.params[0])))
        self.optimizer.add_param_group({**dict(like), "params": [self.params[-1]]})


def test_a_group_that_is_taken_out_leaves_the_others(quick: Site) -> None:
    each = Each(quick, 3)
    del each.optimizer.param_groups[0]
    assert steps_of(each.optimizer) == [2.0, 3.0]
    assert each.optimizer.tuned_lrs() == each.lrs[1:]
    each.add()
    each.step(each.params[1:])
    assert steps_of(each.optimizer) == [3.0, 4.0, 1.0]


def test_a_group_that_is_put_back_has_its_own(quick: Site) -> None:
    """As of networks that are trained by turns."""
    each = Each(quick)
    groups = each.optimizer.param_groups
    each.optimizer.param_groups = groups[1:]
    each.step(each.params[1:])
    each.optimizer.param_groups = groups
    each.step(each.params)
    assert steps_of(each.optimizer) == [2.0, 4.0]
    each.optimizer.param_groups.append(each.optimizer.param_groups.pop(0))
    assert steps_of(each.optimizer) == [4.0, 2.0]


@pytest.mark.parametrize("loads", [False, True])
def test_a_copied_group_begins_anew(loads: bool, quick: Site) -> None:
    each = Each(quick)
    if loads:
        each.optimizer.load_state_dict(copy.deepcopy(each.optimizer.state_dict()))
    each.add(like=each.optimizer.param_groups[1])
    saved = copy.deepcopy(each.optimizer.state_dict())
    assert "tuner" not in saved["param_groups"][2] or not saved["param_groups"][2]["tuner"][6]
    other = Each(quick, 3)
    other.optimizer.load_state_dict(saved)
    for one in (each, other):
        one.step(one.params)
        assert steps_of(one.optimizer) == [2.0, 3.0, 1.0]


def test_groups_that_are_reversed_before_a_step(quick: Site) -> None:
    """After a load, with a new group among them, or with a step that is refused."""
    each = Each(quick)
    each.optimizer.load_state_dict(copy.deepcopy(each.optimizer.state_dict()))
    each.add()
    each.optimizer.param_groups.reverse()
    each.optimizer.diagnostics(0)
    for p in each.params:
        p.grad = torch.full_like(p, math.nan)
    each.optimizer.step()
    assert each.shown() == [0.0, *reversed(each.lrs)]
    each.step(each.params)
    assert steps_of(each.optimizer) == [1.0, 3.0, 2.0]


def test_states_that_move_to_a_device(quick: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuner begins on the host, and its first tables take it elsewhere before groups are told."""
    move = YellowFinTuner._move

    def once(tuner: YellowFinTuner, device: torch.device) -> None:
        move(tuner, device)
        if tuner.former is None:
            tuner.former, tuner.state = tuner.state, tuner.state.clone()

    monkeypatch.setattr(YellowFinTuner, "_move", once)
    each = Each(quick)
    group = each.optimizer.param_groups.pop(0)
    each.step(each.params[1:])
    each.optimizer.param_groups.append(group)
    each.step(each.params)
    assert steps_of(each.optimizer) == [4.0, 2.0]
    each.optimizer.load_state_dict(copy.deepcopy(each.optimizer.state_dict()))
    each.add()
    each.step(each.params)
    assert steps_of(each.optimizer) == [5.0, 3.0, 1.0]


def test_a_group_whose_state_was_cleared_begins_anew(quick: Site) -> None:
    each = Each(quick)
    del each.optimizer.state[each.params[0]]
    each.step(each.params)
    assert steps_of(each.optimizer) == [1.0, 3.0]
