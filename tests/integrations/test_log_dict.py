"""What loggers are given: the same keys for every optimizer, wrapped or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from yfkernels import HD, LAMB, MARTHE, QHM, QHAdam, YellowFin
from yfkernels.integrations import log_dict, unwrapped

BUILDS: dict[str, Callable[..., Any]] = {
    "YellowFin": YellowFin,
    "one step size": lambda params: YellowFin(params, preconditioner=None),
    "LAMB": LAMB,
    "QHM": QHM,
    "QHAdam": QHAdam,
    "HD": lambda params: HD(torch.optim.SGD(params, lr=0.1, momentum=0.9)),
}


def trained(build: Callable[..., Any], groups: Any, steps: int = 3) -> Any:
    optimizer = build(groups)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn_like(p)
        optimizer.step()
    return optimizer


def parameters(count: int = 2) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(5)) for _ in range(count)]


@pytest.mark.parametrize("name", BUILDS)
def test_same_keys(name: str) -> None:
    seen = log_dict(trained(BUILDS[name], parameters()))
    assert {"lr", "skipped_steps"} <= seen.keys()
    assert name == "HD" or "momentum" in seen
    assert all(type(value) is float and math.isfinite(value) for value in seen.values())
    assert seen["lr"] > 0.0
    assert seen["skipped_steps"] == 0.0


@pytest.mark.parametrize("name", [name for name in BUILDS if name != "HD"])
def test_nothing_before_the_first_step(name: str) -> None:
    assert log_dict(BUILDS[name](parameters())) == {}


def test_numbers_are_those_of_the_step() -> None:
    optimizer = trained(YellowFin, parameters())
    seen, known = log_dict(optimizer), optimizer.diagnostics()
    assert seen == {
        "lr": known["lr"],
        "momentum": known["momentum"],
        "grad_norm": known["grad_norm"],
        "clip_coefficient": known["clip_coefficient"],
        "distance_traveled": known["radius"],
        "skipped_steps": 0.0,
    }
    lamb = trained(LAMB, parameters())
    assert log_dict(lamb) == {
        "lr": 1e-3,
        "momentum": 0.9,
        "grad_norm": lamb.diagnostics()["grad_norm"],
        "skipped_steps": 0.0,
    }
    assert log_dict(trained(QHM, parameters()))["momentum"] == 0.999


def test_a_skipped_step_is_counted() -> None:
    optimizer = trained(YellowFin, parameters())
    before = log_dict(optimizer)
    optimizer.param_groups[0]["params"][0].grad.fill_(torch.nan)
    optimizer.step()
    assert log_dict(optimizer) == {**before, "skipped_steps": 1.0}


def test_groups_that_differ_are_told_apart() -> None:
    def groups(**options: Any) -> list[dict[str, Any]]:
        first, second = parameters()
        return [{"params": [first], **options}, {"params": [second]}]

    seen = log_dict(trained(YellowFin, groups(lr=0.5)), "opt/")
    assert "opt/lr" not in seen
    assert seen["opt/lr/0"] == pytest.approx(0.5 * seen["opt/lr/1"])
    assert "opt/momentum" in seen
    apart = log_dict(trained(lambda given: YellowFin(given, tune="group"), groups()))
    assert {"grad_norm/0", "grad_norm/1", "distance_traveled/0"} <= apart.keys()
    assert log_dict(trained(LAMB, groups(betas=(0.8, 0.9))))["momentum/0"] == 0.8


def test_marthe() -> None:
    model = nn.Linear(3, 1)
    optimizer = MARTHE(torch.optim.SGD(model.parameters(), lr=0.1), mu=0.9)
    assert log_dict(optimizer)["lr"] == 0.1
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    optimizer.step(lambda: (model(x) - y).square().mean(), lambda: model(x).square().mean())
    seen = log_dict(optimizer)
    assert {"lr", "hyper_lr", "skipped_steps"} <= seen.keys()
    assert all(type(value) is float for value in seen.values())


def test_inside_wrappers() -> None:
    optimizer = trained(YellowFin, parameters())
    accelerated = SimpleNamespace(optimizer=optimizer)
    redundant = SimpleNamespace(optim=SimpleNamespace(optimizer=optimizer))
    for wrapped in (optimizer, accelerated, redundant):
        assert unwrapped(wrapped) is optimizer
        assert log_dict(wrapped) == log_dict(optimizer)


@pytest.mark.parametrize(
    "given",
    [None, [], [1], {}, torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), "opt"],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_optimizer_of_ours(given: Any) -> None:
    with pytest.raises(TypeError, match=r"Invalid optimizer type: \w+; give YellowFin, LAMB"):
        log_dict(given)
