"""`optimizer.state` is the truth in every step: replaced, moved, deleted or put there by hand."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, normal
from support.kinds import KINDS, Kind
from torch import nn

pytestmark = pytest.mark.kernel_free

SHAPES = ((5, 3), (7,), (), (1025,))


class Pair:
    """Two equal optimizers with equal gradients: what is done to one must not be seen."""

    def __init__(self, kind: Kind, site: Site, rng: np.random.Generator, **options: Any):
        self.rng = rng
        self.params = [
            nn.Parameter(normal(rng, torch.empty(s)).float().to(site.device)) for s in SHAPES
        ]
        self.expected_params = [nn.Parameter(p.detach().clone()) for p in self.params]
        self.optimizer = kind.build(self.params, backend=site.backend, **options)
        self.expected = kind.build(self.expected_params, backend=site.backend, **options)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            for p, q in zip(self.params, self.expected_params):
                q.grad = 0.3 * q.detach() + 0.1 * normal(self.rng, q).float().to(q.device)
                p.grad = q.grad.clone()
            self.optimizer.step()
            self.expected.step()

    def assert_equal(self) -> None:
        assert_same_bits(
            [p.detach() for p in self.params], [q.detach() for q in self.expected_params]
        )
        assert_same_bits(self.optimizer.state_dict(), self.expected.state_dict())


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
