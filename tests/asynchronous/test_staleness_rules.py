"""Weights by staleness: their formulas, where they go, and what they do to a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from asynchronous.quadratic import Quadratic
from support.cases import assert_same_bits
from support.resume import EQUALS, OURS, own_copy
from torch import Tensor, nn

from yfkernels.asynchronous import (
    RULES,
    AgeGate,
    CosineGate,
    DelayAdaptive,
    DropOlder,
    Refusal,
    Server,
    StalenessRule,
)
from yfkernels.asynchronous.engines.simulator import Simulator, fixed

BUILDS = {**OURS, "torch SGD": EQUALS["SGD"][1], "torch Adam": EQUALS["Adam"][1]}
LINEAR = ("QHM", "QHM-averages", "torch SGD")  # in the gradient


class Constant(StalenessRule):
    """The same weight for every push that is stale."""

    def __init__(self, weight: float) -> None:
        self._weight = weight

    def weight(self, staleness: int, gradient: Any) -> float:
        return self._weight if staleness else 1.0


def make_server(name: str, rule: StalenessRule | None = None) -> Server:
    x = nn.Parameter(torch.linspace(-1.0, 1.0, 64))
    return Server([x], BUILDS[name]([x]), staleness_rule=rule)


def push_stale(server: Server, factor: float = 1.0, lr_factor: float = 1.0) -> Tensor:
    """A fresh push, then a stale one; the parameters."""
    gradient, first = torch.linspace(-0.5, 2.0, 64), server.version
    server.push(gradient, version=first)
    for group in server.optimizer.param_groups:
        group["lr"] *= lr_factor
    assert server.push(factor * gradient, version=first).staleness == 1
    return server.pull().parameters[0].clone()


@pytest.mark.parametrize("name", BUILDS)
def test_a_weight_scales_the_gradient_or_the_learning_rate(name: str) -> None:
    """Of SGD and QHM the gradient; of others, which divide by its size, the lr of the one step."""
    weighted = make_server(name, Constant(0.25))
    lr = weighted.optimizer.param_groups[0]["lr"]
    found = push_stale(weighted)
    by_gradient = push_stale(make_server(name), factor=0.25)
    by_lr = push_stale(make_server(name), lr_factor=0.25)
    assert found.equal(by_gradient if name in LINEAR else by_lr)
    assert not by_gradient.equal(by_lr)
    assert weighted.optimizer.param_groups[0]["lr"] == lr


@pytest.mark.parametrize("name", BUILDS)
def test_a_weight_of_one_changes_no_bit(name: str) -> None:
    plain, weighted = make_server(name), make_server(name, Constant(1.0))
    assert push_stale(plain).equal(push_stale(weighted))


@pytest.mark.parametrize("name", ["YellowFin", "torch SGD"])
def test_an_exception_leaves_the_learning_rate(name: str) -> None:
    server = make_server(name, Constant(0.5))
    lrs = [group["lr"] for group in server.optimizer.param_groups]

    def fail(*arguments: Any) -> None:
        if server.version.number:
            raise MemoryError

    server.optimizer.register_step_post_hook(fail)
    with pytest.raises(MemoryError):
        push_stale(server)
    assert [group["lr"] for group in server.optimizer.param_groups] == lrs


def test_formulas() -> None:
    assert [DelayAdaptive().weight(tau, []) for tau in (0, 1, 3)] == [1.0, 0.5, 0.25]
    assert [DropOlder(2).weight(tau, []) for tau in (0, 2, 3)] == [1.0, 1.0, 0.0]
    gate = AgeGate(decay=0.2, cutoff=6)
    for tau in range(6):
        expected = math.exp(-0.2 * tau) * (1 + math.cos(math.pi * tau / 6)) / 2
        assert gate.weight(tau, []) == pytest.approx(expected)
    assert gate.weight(0, []) == 1.0
    assert gate.weight(6, []) == gate.weight(100, []) == 0.0
    assert set(RULES) == {"delay_adaptive", "drop_older", "age_gate", "cosine_gate"}


def test_a_weight_of_zero_refuses_the_push() -> None:
    server = make_server("YellowFin", DropOlder(0))
    gradient, first = torch.ones_like(server.gradients[0]), server.version
    server.push(gradient, version=first)
    before = own_copy(server.optimizer.state_dict())
    assert server.push(gradient, version=first).refusal is Refusal.RULE
    assert_same_bits(own_copy(server.optimizer.state_dict()), before)


def test_cosine_with_the_running_average_of_the_moves(rng: np.random.Generator) -> None:
    x = rng.normal(size=40)
    gate = CosineGate(decay=0.3, smoothing=0.8)
    gate.begin([torch.from_numpy(x)])
    average = np.zeros(40)
    gradient = rng.normal(size=40)
    assert gate.weight(2, [torch.from_numpy(gradient)]) == 1.0  # nothing has moved
    for _ in range(6):
        move = rng.normal(size=40) - 0.7 * gradient
        average = 0.8 * average + 0.2 * move
        x = x + move
        gate.applied([torch.from_numpy(x)])
        cosine = -gradient @ average / np.linalg.norm(gradient) / np.linalg.norm(average)
        expected = math.exp(-0.6) * min(max(cosine, 0.0), 1.0)
        assert gate.weight(2, [torch.from_numpy(gradient)]) == pytest.approx(expected, abs=1e-12)
        assert gate.weight(2, [torch.from_numpy(-gradient)]) == pytest.approx(
            math.exp(-0.6) * max(-cosine, 0.0), abs=1e-12
        )
        assert gate.weight(0, [torch.from_numpy(-gradient)]) == 1.0
    assert gate.weight(2, [torch.zeros(40, dtype=torch.float64)]) == 0.0


def test_a_closed_cosine_gate_opens_again() -> None:
    """One coordinate, a large step: after an overshoot every stale gradient is refused."""
    x = nn.Parameter(torch.ones(1, dtype=torch.float64))
    server = Server([x], torch.optim.SGD([x], lr=0.6), staleness_rule=CosineGate(decay=0.0))
    Simulator(server, lambda batch: 0.5 * x.square().sum()).run(fixed(1, 200))
    assert server.log.refusals[Refusal.RULE] > 10
    assert abs(float(x.detach())) < 1e-6


def test_delay_adaptive_steps_are_stable_where_plain_ones_are_not() -> None:
    """A delay of 7 leaves alpha a < .209; with alpha / 8 the limit is at 1.67."""
    for lr, stable in ((0.18, True), (0.25, False)):
        plain = Quadratic(torch.ones(1), lr)
        plain.simulator.run(fixed(7, 400))
        assert (abs(float(plain.x.detach())) < 1.0) == stable
    for lr, stable in ((1.5, True), (1.9, False)):
        x = nn.Parameter(torch.ones(1, dtype=torch.float64))
        server = Server([x], torch.optim.SGD([x], lr=lr), staleness_rule=DelayAdaptive())
        Simulator(server, lambda batch, x=x: 0.5 * x.square().sum()).run(fixed(7, 600))
        assert (abs(float(x.detach())) < 1.0) == stable


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: DropOlder(-1), "Invalid limit value: -1"),
        (lambda: AgeGate(decay=-0.1), r"Invalid decay value: -0\.1"),
        (lambda: AgeGate(cutoff=0), "Invalid cutoff value: 0"),
        (lambda: CosineGate(smoothing=-0.5), r"Invalid smoothing value: -0\.5"),
    ],
)
def test_bad_input_is_named(construct: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct()
