"""`optimizer.state` is the truth in every step: replaced, moved, deleted or put there by hand."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits
from support.equal_pair import SHAPES, Pair
from support.kinds import Kind
from torch import nn

pytestmark = pytest.mark.kernel_free


@pytest.fixture
def pair(kind: Kind, site: Site, rng: np.random.Generator) -> Pair:
    return Pair(kind, site, rng)


def clone_each(optimizer: torch.optim.Optimizer) -> None:
    for state in optimizer.state.values():
        for name, value in state.items():
            state[name] = value.clone()


def swap_data(optimizer: torch.optim.Optimizer) -> None:
    for state in optimizer.state.values():
        for value in state.values():
            value.data = value.data.clone()


def new_dicts(optimizer: torch.optim.Optimizer) -> None:
    for p, state in optimizer.state.items():
        optimizer.state[p] = {name: value.clone() for name, value in state.items()}


def another_order(optimizer: torch.optim.Optimizer) -> None:
    reversed_state = {p: optimizer.state[p] for p in reversed(list(optimizer.state))}
    optimizer.state = defaultdict(dict, reversed_state)


def in_double(optimizer: torch.optim.Optimizer) -> None:
    """As a state that torch has cast: exact, but of another dtype."""
    for state in optimizer.state.values():
        for name, value in state.items():
            state[name] = value.double()


def transposed(optimizer: torch.optim.Optimizer) -> None:
    for state in optimizer.state.values():
        for name, value in state.items():
            if value.dim() == 2:
                state[name] = value.mT.contiguous().mT


def plain_steps(optimizer: torch.optim.Optimizer) -> None:
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = int(state["step"])


MOVES = (clone_each, swap_data, new_dicts, another_order, in_double, transposed, plain_steps)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_moved_state_is_followed(move: Callable[[torch.optim.Optimizer], None], pair: Pair) -> None:
    pair.train(3)
    for _ in range(3):
        move(pair.optimizer)
        junk = [torch.full(s, 7.0, device=p.device) for s, p in zip(SHAPES, pair.params)] * 4
        pair.train(2)
        assert all((j == 7.0).all() for j in junk), "memory of others was written"
    pair.assert_equal()


def test_moved_state_is_saved(pair: Pair, kind: Kind, site: Site) -> None:
    """Offloaded, returned, trained, saved: the checkpoint has the newest."""
    pair.train(3)
    clone_each(pair.optimizer)
    pair.train(3)
    saved = copy.deepcopy(pair.optimizer.state_dict())
    params = [nn.Parameter(p.detach().clone()) for p in pair.params]
    resumed = kind.build(params, backend=site.backend)
    resumed.load_state_dict(saved)
    pair.params, pair.optimizer = params, resumed
    pair.train(3)
    pair.assert_equal()


def test_replaced_state_is_let_go(pair: Pair) -> None:
    """Nothing keeps the memory of what a program has taken away."""
    import weakref

    pair.train(3)
    before = [
        weakref.ref(value.untyped_storage())
        for state in pair.optimizer.state.values()
        for value in state.values()
    ]
    clone_each(pair.optimizer)
    pair.train(1)
    assert not any(reference() for reference in before)


def forget(optimizer: Any) -> None:
    optimizer.state = defaultdict(dict)


def clear(optimizer: Any) -> None:
    optimizer.state.clear()


def delete_each(optimizer: Any) -> None:
    for p in list(optimizer.state):
        del optimizer.state[p]


def plain_dict(optimizer: Any) -> None:
    optimizer.state = {}


def zeros(optimizer: Any) -> None:
    for state in optimizer.state.values():
        zeros_of_one(state)


def zeros_of_one(state: dict[str, Any]) -> None:
    for name, value in list(state.items()):
        state[name] = torch.zeros_like(value)


def reset_state(optimizer: Any) -> None:
    optimizer.reset(statistics=False)


@pytest.mark.parametrize(
    "away", [forget, clear, delete_each, plain_dict], ids=lambda away: away.__name__
)
def test_cleared_state_begins_anew(
    away: Callable[[Any], None], kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """As a new optimizer, which is what torch's are then."""
    pair = Pair(kind, site, rng)
    pair.train(4)
    pair.expected = kind.build(pair.expected_params, backend=site.backend)
    away(pair.optimizer)
    pair.train(3)
    pair.assert_equal()


@pytest.mark.parametrize("away", [zeros, reset_state], ids=lambda away: away.__name__)
def test_statistics_outlive_the_state(
    away: Callable[[Any], None], kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    pair = Pair(kind, site, rng)
    pair.train(4)
    for state in pair.expected.state.values():
        for value in state.values():
            value.zero_()
    away(pair.optimizer)
    pair.train(3)
    pair.assert_equal()


def test_one_parameter_that_begins_anew(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """The statistics go on."""
    pair = Pair(kind, site, rng)
    pair.train(4)
    for optimizer, params in (
        (pair.optimizer, pair.params),
        (pair.expected, pair.expected_params),
    ):
        if optimizer is pair.optimizer:
            del optimizer.state[params[1]]
        else:
            zeros_of_one(optimizer.state[params[1]])
    pair.train(3)
    pair.assert_equal()


def test_momentum_written_by_hand(site: Site) -> None:
    """The numbers of the issue: torch.optim.SGD's next move is .1."""
    from yfkernels import QHM

    p = nn.Parameter(torch.zeros(3, device=site.device))
    optimizer = QHM.from_momentum([p], lr=0.1, momentum=0.9, backend=site.backend)

    def move() -> float:
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        optimizer.step()
        return float((p.detach() - before)[0])

    for _ in range(5):
        move()
    optimizer.state = defaultdict(dict)
    assert move() == pytest.approx(-0.1)
    assert len(optimizer.state_dict()["state"]) == 1
    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    assert move() == pytest.approx(-0.1)
    optimizer.state[p]["momentum_buffer"].data = torch.zeros_like(p)
    assert move() == pytest.approx(-0.1)
    for _ in range(3):
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        assert move() == pytest.approx(-0.1)


def test_a_parameter_listed_twice_is_refused(kind: Kind, site: Site) -> None:
    import warnings

    p = nn.Parameter(torch.ones(3, device=site.device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of it
        optimizer = kind.build([p, p], backend=site.backend)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"parameter 1 .* parameter 0 again"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones_like(p))


def test_a_step_without_any_gradient_is_none(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Also where no parameter has a dimension."""
    p = nn.Parameter(torch.tensor(1.5, device=site.device))
    optimizer = kind.build([p], backend=site.backend)
    for gradient in (0.5, None, 0.25, None, None):
        p.grad = None if gradient is None else torch.tensor(gradient, device=site.device)
        before = p.detach().clone(), copy.deepcopy(optimizer.state_dict())
        optimizer.step()
        if gradient is None:
            assert_same_bits((p.detach(), optimizer.state_dict()), before)


def test_state_of_a_parameter_without_elements(kind: Kind, site: Site) -> None:
    """It is made anew as well, where it was deleted."""
    p = nn.Parameter(torch.zeros(0, 4, device=site.device))
    optimizer = kind.build([p], backend=site.backend)
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        assert kind.state <= optimizer.state[p].keys()
        del optimizer.state[p]


def test_a_missing_second_state_begins_the_parameter_anew(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Its momentum and count of steps too: one of many steps over one of none is a huge move."""
    pair = Pair(kind, site, rng)
    pair.train(5)
    layout = pair.optimizer._layout
    further = list(layout.names)[1:]
    if not further:
        pytest.skip("it has no second state")
    for optimizer, p, lost in (
        (pair.optimizer, pair.params[0], further),
        (pair.expected, pair.expected_params[0], [*layout.names, "step"]),
    ):
        for name in lost:
            optimizer.state[p].pop(name, None)
    pair.train(3)
    pair.assert_equal()


def test_steps_of_another_object_without_elements(kind: Kind, site: Site) -> None:
    """The step counts with the gradient of the parameter that is in the groups now."""
    old, new = (nn.Parameter(torch.zeros(0, 4, device=site.device)) for _ in range(2))
    other = nn.Parameter(torch.ones(3, device=site.device))
    optimizer = kind.build([old, other], backend=site.backend)
    for p in (old, new, other):
        p.grad = torch.ones_like(p)
    optimizer.step()
    old.grad = None
    optimizer.param_groups[0]["params"][0] = new
    optimizer.state[new] = optimizer.state.pop(old)
    optimizer.step()
    assert list(optimizer.state) == [other, new]
    for state in optimizer.state.values():
        assert float(state.get("step", 2.0)) == 2.0
