"""`explain` of HD and MARTHE: factors that give the learning rate, and notes only where due."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

from yfkernels import HD, MARTHE, RTHO

Step = Callable[..., None]


@pytest.fixture
def model(rng: Any) -> nn.Module:
    torch.manual_seed(int(rng.integers(2**31)))
    return nn.Linear(3, 2)


def hd(model: nn.Module, *, lr: float = 0.01, **options: Any) -> tuple[HD, Step]:
    tuner = HD(AdamW(model.parameters(), lr=lr), **options)

    def step(factor: float = 1.0) -> None:
        tuner.zero_grad()
        (factor * model(torch.ones(4, 3)).square().mean()).backward()
        tuner.step()

    return tuner, step


def marthe(model: nn.Module, *, lr: float = 0.01, **options: Any) -> tuple[MARTHE, Step]:
    tuner = MARTHE(AdamW(model.parameters(), lr=lr), **options)

    def step(factor: float = 1.0) -> None:
        def loss() -> Any:
            return factor * model(torch.ones(4, 3)).square().mean()

        tuner.step(loss, loss)

    return tuner, step


each_tuner = pytest.mark.parametrize("build", [hd, marthe])


def notes(tuner: Any) -> list[str]:
    text: str = tuner.explain()
    return text.partition("\nlook at:\n")[2].splitlines()


@each_tuner
def test_the_factors_give_the_learning_rate(build: Any, model: nn.Module) -> None:
    tuner, step = build(model)
    base = getattr(tuner, "base", tuner)
    schedule = LambdaLR(base, lambda t: 1.0 if t < 2 else 0.5)
    name = type(tuner).__name__
    header = f"{name} over AdamW, normalized form"
    assert tuner.explain().splitlines()[:2] == [
        f"{header}: no step was taken yet",
        "group 0: 2 tensors of 8 elements",
    ]
    for _ in range(3):
        step()
        schedule.step()
    text = tuner.explain()
    assert text.splitlines()[0] == header
    line = re.search(r"learning rate +(\S+) = given (\S+) x tuned (\S+) x schedule (\S+)\n", text)
    assert line is not None
    rate, *factors = map(float, line.groups())
    assert math.prod(factors) == pytest.approx(rate, rel=0.02)
    assert rate == pytest.approx(tuner.diagnostics()["lr"][0], rel=0.01)
    assert (factors[0], factors[2]) == (0.01, 0.5)
    assert notes(tuner) == []


def test_what_tunes_is_told(model: nn.Module) -> None:
    tuner, step = hd(model, form="multiplicative")
    step()
    assert tuner.explain().splitlines()[-1] == "  tuned by       hyper_lr 0.02"
    other = RTHO(SGD(model.parameters(), lr=0.01))
    assert other.explain().startswith("RTHO over SGD, normalized form: no step was taken yet\n")
    assert other.explain().endswith("hyper_lr 0.3, the last hypergradient 0, mu 1")


@each_tuner
def test_steps_that_were_left_out(build: Any, model: nn.Module) -> None:
    tuner, step = build(model)
    step()
    step(math.nan)
    assert [note.split(": ")[0] for note in notes(tuner)] == [
        "  - 1 steps or hypergradients were not finite and were left out"
    ]


@each_tuner
def test_a_learning_rate_of_nothing(build: Any, model: nn.Module) -> None:
    tuner, step = build(model, lr=0.0)
    step()
    assert "learning rate  0, as it was given" in tuner.explain()
    assert notes(tuner)[0].startswith("  - group 0: lr was given as 0")


def test_a_learning_rate_that_was_tuned_down_to_nothing(model: nn.Module) -> None:
    """The additive form can: here the first step overshoots."""
    tuner, step = marthe(model, lr=10.0, form="additive", hyper_lr=1e3)
    step()
    assert tuner.diagnostics()["lr"] == [0.0]
    assert notes(tuner)[0].startswith("  - group 0: the learning rate was tuned down to 0")


@each_tuner
def test_broken_parameters_are_named(build: Any, model: nn.Module) -> None:
    tuner, _ = build(model)
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan
    assert notes(tuner) == ["  - parameters that are not finite: number 0; go back to a checkpoint"]
