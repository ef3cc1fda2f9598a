"""Ways to set the learning rate: what each does over time, and what means nothing to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from yfkernels import HD, MARTHE, RTHO
from yfkernels.lab.options import OptionError
from yfkernels.lab.tuning.bases import BASES, MOMENTUM, build_base
from yfkernels.lab.tuning.methods import METHODS, Method, build_method

TOTAL = 21
FIRST = 0.1


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def closure(model: nn.Module, seed: int) -> Callable[[], Tensor]:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    return lambda: (model(x) - x.sum(1, keepdim=True)).square().mean()


def built(name: str, model: nn.Module, total: int = TOTAL, **options: Any) -> Method:
    return build_method(name, SGD(model.parameters(), lr=FIRST), total_steps=total, **options)


def lrs(method: Method, model: nn.Module, steps: int = TOTAL) -> list[float]:
    """What each step begins with, and what the one after the last would."""
    used = [method.diagnostics()["lr"]]
    for step in range(steps):
        method.step(closure(model, step), closure(model, 100))
        used.append(method.diagnostics()["lr"])
    return used


def test_constant(model: nn.Module) -> None:
    assert lrs(built("constant", model), model) == [FIRST] * (TOTAL + 1)


def test_staircase_falls_to_a_tenth_after_each_third(model: nn.Module) -> None:
    stairs = [FIRST] * 7 + [FIRST / 10] * 7 + [FIRST / 100] * 7
    assert lrs(built("staircase", model), model)[:-1] == pytest.approx(stairs)


@pytest.mark.parametrize("total", [20, 22, 100])
def test_staircase_has_three_stairs_at_any_length(model: nn.Module, total: int) -> None:
    used = lrs(built("staircase", model, total), model, total)[:-1]
    assert sorted(set(used)) == pytest.approx([FIRST / 100, FIRST / 10, FIRST])


def test_exponential_ends_at_a_hundredth(model: nn.Module) -> None:
    used = lrs(built("exponential", model), model)
    assert used == pytest.approx([FIRST * 0.01 ** (step / TOTAL) for step in range(TOTAL + 1)])


def test_cosine_restarts_in_periods_that_double(model: nn.Module) -> None:
    periods = [
        FIRST * (1.0 + math.cos(math.pi * step / period)) / 2.0
        for period in (3, 6, 12)
        for step in range(period)
    ]
    assert lrs(built("cosine-restarts", model), model)[:-1] == pytest.approx(periods)


@pytest.mark.parametrize(
    ("name", "options", "by_hand"),
    [
        ("hd", {}, HD),
        ("hd", {"hyper_lr": 1e-3}, lambda base: HD(base, form="additive", hyper_lr=1e-3)),
        ("rtho", {"hyper_lr": 1e-3}, lambda base: RTHO(base, hyper_lr=1e-3)),
        ("marthe", {}, MARTHE),
        ("marthe", {"mu": -1.0}, MARTHE),
        ("marthe", {"mu": 0.5, "alpha": 1e-7}, lambda base: MARTHE(base, mu=0.5, alpha=1e-7)),
    ],
)
def test_hypergradients_are_those_of_the_tuners(
    model: nn.Module, name: str, options: dict[str, float], by_hand: Any
) -> None:
    found = lrs(built(name, model, **options), model)
    torch.manual_seed(0)
    twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    tuner = by_hand(SGD(twin.parameters(), lr=FIRST))
    expected = []
    for step in range(TOTAL):
        if isinstance(tuner, HD):
            tuner.zero_grad()
            closure(twin, step)().backward()
            tuner.step()
        else:
            tuner.step(closure(twin, step), closure(twin, 100))
        expected += tuner.diagnostics()["lr"]
    assert found[1:] == expected
    assert len(set(found)) > 3


@pytest.mark.parametrize("name", METHODS)
def test_a_step_returns_the_loss_before_it(model: nn.Module, name: str) -> None:
    loss = closure(model, 0)
    before = loss().item()
    returned = built(name, model).step(loss, closure(model, 1))
    assert returned.item() == pytest.approx(before)
    assert not returned.requires_grad
    assert loss().item() < before


@pytest.mark.parametrize("name", METHODS)
def test_only_marthe_and_rtho_validate(model: nn.Module, name: str) -> None:
    called = []

    def validation() -> Tensor:
        called.append(name)
        return closure(model, 1)()

    built(name, model).step(closure(model, 0), validation)
    assert bool(called) == (name in ("marthe", "rtho"))


@pytest.mark.parametrize("name", METHODS)
def test_diagnostics_are_nan_where_a_method_has_none(model: nn.Module, name: str) -> None:
    found = built(name, model).diagnostics()
    assert list(found) == ["lr", "mu", "hyper_lr"]
    assert found["lr"] == FIRST
    assert math.isnan(found["mu"]) == (name not in ("marthe", "rtho"))
    assert math.isnan(found["hyper_lr"]) == (name not in ("marthe", "rtho", "hd"))


@pytest.mark.parametrize("name", ["hd", "constant"])
def test_a_clip_bounds_the_step(model: nn.Module, name: str) -> None:
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    built(name, model, grad_clipping=1e-3).step(closure(model, 0))
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(FIRST * 1e-3, rel=1e-3)


VALUES = {"hyper_lr": 1e-3, "alpha": 1e-8, "mu": 0.5, "grad_clipping": 1.0}
MEANINGLESS = [
    (name, option) for name, own in METHODS.items() for option in VALUES if option not in own
]


@pytest.mark.parametrize(("name", "option"), MEANINGLESS)
def test_an_option_without_meaning_is_refused(model: nn.Module, name: str, option: str) -> None:
    with pytest.raises(
        OptionError, match=f"Invalid {option} value: .*; {name} .*leave it out"
    ) as e:
        built(name, model, **{option: VALUES[option]})
    assert e.value.option == option
    others = str(e.value).partition("or choose ")[2].split(" or ")
    assert others == [other for other, own in METHODS.items() if option in own]


def test_a_clip_says_why_marthe_has_none(model: nn.Module) -> None:
    with pytest.raises(OptionError, match="a clip has no closed form"):
        built("marthe", model, grad_clipping=1.0)


def test_a_clip_at_zero_is_refused(model: nn.Module) -> None:
    with pytest.raises(OptionError, match="must be finite and > 0; leave it out"):
        built("constant", model, grad_clipping=0.0)


def test_an_unknown_method_is_refused(model: nn.Module) -> None:
    with pytest.raises(OptionError, match="'linear'; choose from hd, rtho, marthe, staircase"):
        built("linear", model)


# ---- bases


@pytest.mark.parametrize("name", BASES)
def test_bases_take_what_is_given(model: nn.Module, name: str) -> None:
    momentum = {"momentum": 0.5} if name in MOMENTUM else {}
    (group,) = build_base(name, model, lr=0.02, wd=0.03, **momentum).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.03)
    assert not momentum or group[MOMENTUM[name]] == 0.5


@pytest.mark.parametrize(
    ("name", "lr", "wd"),
    [
        ("sgd", 0.1, 0.0),
        ("adam", 0.001, 0.0),
        ("adamw", 0.001, 0.01),
        ("qhm", 1.0, 0.0),
        ("qhadam", 0.001, 0.0),
    ],
)
def test_bases_have_the_defaults_that_the_help_names(
    model: nn.Module, name: str, lr: float, wd: float
) -> None:
    (group,) = build_base(name, model).param_groups
    assert (group["lr"], group["weight_decay"]) == (lr, wd)
    momentum = {"sgd": 0.9, "qhm": 0.999}.get(name)
    assert momentum is None or group[MOMENTUM[name]] == momentum


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_with_every_base(model: nn.Module, name: str, method: str) -> None:
    base: Optimizer = build_base(name, model)
    course = lrs(build_method(method, base, total_steps=6), model, 6)
    assert all(math.isfinite(lr) and lr > 0.0 for lr in course[:-1])


@pytest.mark.parametrize("name", [name for name in BASES if name not in MOMENTUM])
def test_momentum_is_refused_where_there_are_betas(model: nn.Module, name: str) -> None:
    with pytest.raises(OptionError, match=f"Invalid momentum value: 0.9; {name} has betas") as e:
        build_base(name, model, momentum=0.9)
    assert e.value.option == "momentum"


def test_an_lr_of_zero_is_refused(model: nn.Module) -> None:
    with pytest.raises(OptionError, match=r"Invalid lr value: 0.0; it must be finite and > 0"):
        build_base("sgd", model, lr=0.0)
