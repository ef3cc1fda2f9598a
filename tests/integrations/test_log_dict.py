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
        "distance_traveled": known["distance_traveled"],
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


def keys_of_each_step(build: Callable[..., Any], groups: Any, steps: int = 6) -> list[set[str]]:
    optimizer = build(groups)
    seen = []
    for step in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn_like(p) * (100.0 if step == steps // 2 else 1.0)
        optimizer.step()
        seen.append(set(log_dict(optimizer)))
    return seen


@pytest.mark.parametrize("name", BUILDS)
def test_each_key_is_one_curve(name: str) -> None:
    """None goes over into "/0" and "/1" because groups that were the same no longer are."""
    groups = [{"params": [p]} for p in parameters()]
    first, *later = keys_of_each_step(BUILDS[name], groups)
    assert all(keys == first for keys in later)


def test_each_key_is_one_curve_with_group_tuning() -> None:
    groups = [{"params": [p]} for p in parameters()]
    first, *later = keys_of_each_step(lambda given: YellowFin(given, tune="group"), groups)
    assert all(keys == first for keys in later)
    assert {"lr/0", "lr/1", "clip_coefficient/1", "skipped_steps/1"} <= first
    assert "skipped_steps" not in first


@pytest.mark.parametrize("build", [YellowFin, QHM], ids=lambda build: build.__name__)
def test_a_warm_up_keeps_learning_rates_apart(build: Callable[..., Any]) -> None:
    """It begins at 0 for all groups, whatever they were set to."""
    first, second = parameters()
    optimizer = build([{"params": [first], "lr": 0.5}, {"params": [second]}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 2, 1.0))
    for _ in range(3):
        first.grad, second.grad = torch.randn(5), torch.randn(5)
        optimizer.step()
        assert {"lr/0", "lr/1"} <= log_dict(optimizer).keys()
        schedule.step()


def test_learning_rates_of_all_groups_are_those_of_the_optimizer() -> None:
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters(3), (1.0, 0.5, 0.25))]
    optimizer = trained(YellowFin, groups)
    seen = log_dict(optimizer)
    for group in range(3):
        assert seen[f"lr/{group}"] == optimizer.diagnostics(group)["lr"]


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


def test_wrappers_that_lead_back_to_themselves() -> None:
    """Found all the same if something in them leads on, refused if nothing does."""
    one, other = SimpleNamespace(), SimpleNamespace()
    one.optimizer, other.optimizer = other, one
    with pytest.raises(TypeError, match="Invalid optimizer type: SimpleNamespace"):
        unwrapped(one)
    both = SimpleNamespace(optim=trained(QHM, parameters()))
    both.optimizer = both
    assert unwrapped(both) is both.optim


@pytest.mark.parametrize(
    "given",
    [None, [], [1], {}, torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), "opt"],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_optimizer_of_ours(given: Any) -> None:
    with pytest.raises(TypeError, match=r"Invalid optimizer type: \w+; give YellowFin, LAMB"):
        log_dict(given)


def test_the_lr_is_that_of_the_step_not_of_the_next() -> None:
    optimizer = trained(lambda params: LAMB(params, lr=0.25), parameters())
    optimizer.param_groups[0]["lr"] = 0.0  # a schedule that has ended
    assert log_dict(optimizer)["lr"] == 0.25
