"""reset(), statistics that a program puts into the groups, and groups that come and go."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.cases import Site, normal
from support.equal_pair import Pair
from support.kinds import KINDS, Kind
from torch import nn

pytestmark = pytest.mark.kernel_free


def test_reset(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    pair = Pair(kind, site, rng)
    pair.train(4)
    pair.optimizer.state[pair.params[0]]["ema"] = torch.ones(2)
    pair.optimizer.reset()
    assert list(pair.optimizer.state) == pair.params[:1]
    assert list(pair.optimizer.state[pair.params[0]]) == ["ema"]
    readouts = [pair.optimizer.param_groups[0].get(name, 0.0) for name in ("tuned_lr", "momentum")]
    assert list(map(float, readouts)) == [0.0, 0.0]
    del pair.optimizer.state[pair.params[0]]
    pair.expected = kind.build(pair.expected_params, backend=site.backend)
    pair.train(3)
    pair.assert_equal()


def test_reset_of_the_statistics_alone(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    pair = Pair(kind, site, rng)
    pair.train(4)
    pair.optimizer.reset(state=False)
    fresh = kind.build(pair.expected_params, backend=site.backend)
    for q in pair.expected_params:
        fresh.state[q] = pair.expected.state[q]
    pair.expected = fresh
    pair.train(3)
    pair.assert_equal()


def test_reset_is_not_undone_by_the_groups(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """A wrapper has put copies there, of statistics and readouts that are to be forgotten."""
    pair = Pair(kind, site, rng)
    pair.train(4)
    group = pair.optimizer.param_groups[0]
    for name in {kind.saves, "tuned_lr"} & group.keys():
        group[name] = group[name].clone()
    for optimizer in (pair.optimizer, pair.expected):
        optimizer.reset(state=False)
        assert float(optimizer.param_groups[0].get("tuned_lr", 0.0)) == 0.0
    pair.assert_equal()
    pair.train(3)
    pair.assert_equal()


def test_reset_with_more_groups_than_were_shown_last(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """A program puts other groups there for a while, and takes them back."""
    values = [normal(rng, torch.empty(5)).float().to(site.device) for _ in range(2)]
    params = [torch.nn.Parameter(value) for value in values]
    optimizer = kind.build([{"params": [p]} for p in params], backend=site.backend)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    whole, optimizer.param_groups = optimizer.param_groups, optimizer.param_groups[:1]
    optimizer.step()
    optimizer.param_groups = whole
    optimizer.reset(state=False)
    assert [float(group.get("tuned_lr", 0.0)) for group in whole] == [0.0, 0.0]


def test_statistics_in_the_groups_are_used(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Whoever puts other statistics into the groups, a wrapper's load for one, has them used."""
    pair = Pair(kind, site, rng)
    pair.train(3)
    early = pair.optimizer.param_groups[0][kind.saves].clone()
    pair.train(3)
    assert pair.optimizer.param_groups[0][kind.saves] is pair.optimizer._tuner.state
    for optimizer in (pair.optimizer, pair.expected):
        optimizer.param_groups[0][kind.saves] = early.clone()
    pair.optimizer.param_groups = copy.copy(pair.optimizer.param_groups)
    pair.train(3)
    pair.assert_equal()
    pair.optimizer.param_groups[0].pop(kind.saves)
    pair.expected.reset(state=False)
    pair.train(3)
    pair.assert_equal()


def test_a_group_that_comes_and_goes(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    pair = Pair(kind, site, rng)
    pair.train(2)
    groups = pair.optimizer.param_groups
    extra = nn.Parameter(torch.ones(4, device=site.device))
    pair.optimizer.add_param_group({"params": [extra]})
    groups.pop()
    pair.train(2)
    pair.assert_equal()


@pytest.mark.parametrize("kind", [k for k in KINDS if k.saves == "tuner"], ids=str)
def test_readouts_of_a_group_are_its_own(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """Not those of a group in whose place it comes."""
    pair = Pair(kind, site, rng)
    optimizer = pair.optimizer
    for _ in range(2):
        extra = nn.Parameter(torch.ones(4, device=site.device))
        optimizer.add_param_group({"params": [extra]})
        assert float(optimizer.param_groups[1]["tuned_lr"]) == 0.0
        extra.grad = torch.ones_like(extra)
        pair.train(1)
        taken = optimizer.param_groups.pop()
        optimizer.state.pop(extra)
        assert float(taken["tuned_lr"]) > 0.0
