"""`explain`: numbers that give the step size, and notes where something looks wrong, only there."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits
from support.kinds import Kind
from torch import nn

from yfkernels import LAMB, QHM, YellowFin


def stepped(optimizer: Any, params: list[nn.Parameter], steps: int = 5, size: float = 1.0) -> Any:
    for _ in range(steps):
        for p in params:
            p.grad = size * torch.randn_like(p)
        optimizer.step()
    return optimizer


@pytest.fixture
def params(rng: np.random.Generator, site: Site) -> list[nn.Parameter]:
    torch.manual_seed(int(rng.integers(2**31)))
    return [nn.Parameter(torch.randn(shape, device=site.device)) for shape in ((3, 4), (7,), ())]


def notes(optimizer: Any) -> list[str]:
    text = optimizer.explain()
    return text.partition("\nlook at:\n")[2].splitlines()


def test_every_optimizer_tells_its_step(kind: Kind, site: Site, params: list[nn.Parameter]) -> None:
    optimizer = kind.build(params, backend=site.backend)
    name = kind.optimizer.__name__
    assert optimizer.explain().splitlines()[0] == f"{name}: no step was taken yet"
    stepped(optimizer, params)
    before = copy.deepcopy(optimizer.state_dict())
    text = optimizer.explain()
    assert text.splitlines()[0] == (f"{name}, 5 steps taken" if kind.tunes else name)
    lr = optimizer.tuned_lrs()[0] if kind.tunes else optimizer.param_groups[0]["lr"]
    assert f"0: 3 tensors of 20 elements, step size {lr:.3g}" in text
    assert_same_bits(optimizer.state_dict(), before)


def test_the_factors_give_the_step_size(kind: Kind, site: Site, params: list[nn.Parameter]) -> None:
    if not kind.robust:
        pytest.skip("its step size is no product of these")
    text = stepped(kind.build(params, backend=site.backend), params).explain()
    line = re.search(r"step size +(\S+) = (.*)", text)
    assert line is not None
    *factors, divisor = (float(number) for number in re.findall(r"(\S+)(?= x| /|$)", line[2]))
    assert math.prod(factors) / divisor == pytest.approx(float(line[1]), rel=0.03)


def test_a_schedule_that_has_gone_on(params: list[nn.Parameter], site: Site) -> None:
    """The factor is the lr of the step, and a cosine's end is no learning rate."""
    optimizer = YellowFin(params, backend=site.backend)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 if t < 5 else 0.05)
    for _ in range(5):
        stepped(optimizer, params, steps=1)
        schedule.step()
    assert "= 2 x lr 1 (now 0.05) x (1 - momentum)" in optimizer.explain()
    assert notes(optimizer) == []


def test_nothing_is_noted_of_a_healthy_training(
    kind: Kind, site: Site, params: list[nn.Parameter]
) -> None:
    optimizer = kind.build(params, backend=site.backend, **({"lr": 1.0} if kind.tunes else {}))
    assert notes(stepped(optimizer, params)) == []


def test_closed_loop(params: list[nn.Parameter], site: Site) -> None:
    optimizer = stepped(YellowFin(params, closed_loop=True, backend=site.backend), params)
    assert "corrected for a mean staleness of 0.0; wanted 0.5" in optimizer.explain()
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step(staleness=30)  # which changes the momentum, and no factor of the step size
    assert optimizer.diagnostics()["momentum"] < 0.4
    assert "= 2 x lr 1 x (1 - momentum) 0.5 x" in optimizer.explain()


def test_the_first_step_with_a_preconditioner(params: list[nn.Parameter], site: Site) -> None:
    """Which has no gradients before it to divide by."""
    optimizer = stepped(YellowFin(params, backend=site.backend), params, steps=1)
    lr = optimizer.tuned_lrs()[0]
    assert f"step size  {lr:.3g}, as long as a first step is" in optimizer.explain()


def test_a_clip(params: list[nn.Parameter], site: Site) -> None:
    optimizer = stepped(YellowFin(params, max_norm=1.0, backend=site.backend), params)
    share = optimizer.diagnostics()["clip_coefficient"]
    assert f"clipped to {100 * share:.3g}% of it" in optimizer.explain()


def test_skipped_steps(params: list[nn.Parameter], site: Site) -> None:
    optimizer = stepped(YellowFin(params, backend=site.backend), params, size=math.nan)
    assert optimizer.explain().splitlines()[0] == "YellowFin: no step was taken yet, 5 skipped"
    stepped(optimizer, params, steps=3)
    assert optimizer.explain().splitlines()[0] == "YellowFin, 3 steps taken, 5 skipped"
    assert [note for note in notes(optimizer) if "5 steps were skipped and 3 taken" in note]


def test_a_travel_that_was_only_assumed() -> None:
    """Of parameters that move to and fro."""
    signs = torch.ones(1000)
    signs[::2] = -1.0
    p = nn.Parameter(100.0 * signs)
    optimizer = YellowFin([p], preconditioner="diagonal")
    said = []
    for step in range(1, 121):
        p.grad = torch.full_like(p, 1.0 if step % 2 else -1.0)
        optimizer.step()
        said += [step for note in notes(optimizer) if "have not come as far as was assumed" in note]
    assert said
    assert min(said) in (100, 101)  # of the place after every other step


@pytest.mark.parametrize("tune", ["global", "group"])
@pytest.mark.parametrize(
    ("size", "words"),
    [(0.0, "every gradient so far was 0"), (math.nan, "no gradient so far was finite")],
)
def test_gradients_that_never_were(
    size: float, words: str, tune: str, params: list[nn.Parameter]
) -> None:
    optimizer = stepped(YellowFin(params, tune=tune), params, size=size)
    (note,) = notes(optimizer)
    assert words in note
    assert notes(stepped(optimizer, params, steps=6)) == []


def test_gradients_that_are_zero(params: list[nn.Parameter], site: Site) -> None:
    optimizer = stepped(LAMB(params, lr=0.01, backend=site.backend), params, size=0.0)
    assert [note for note in notes(optimizer) if "the last gradient was 0 in every element" in note]


def test_a_gradient_far_larger_than_before(params: list[nn.Parameter], site: Site) -> None:
    optimizer = stepped(YellowFin(params, backend=site.backend), params, steps=15)
    assert notes(optimizer) == []
    stepped(optimizer, params, steps=1, size=1000.0)
    assert [note for note in notes(optimizer) if "far larger than those before it" in note]


def test_groups_that_stand_still(params: list[nn.Parameter], site: Site) -> None:
    groups = [{"params": params[:1], "lr": 0.0}, {"params": params[1:]}]
    optimizer = stepped(QHM(groups, lr=0.1, backend=site.backend), params)
    assert "0: 1 tensor of 12 elements, stands still" in optimizer.explain()
    assert notes(optimizer) == []
    optimizer.param_groups[1]["lr"] = 0.0
    assert notes(optimizer) == ["  - lr is 0 in every group: the next step moves nothing"]


def test_an_lr_that_looks_like_a_learning_rate(params: list[nn.Parameter], site: Site) -> None:
    optimizer = YellowFin(params, lr=1e-3, backend=site.backend)
    assert [note for note in notes(optimizer) if "lr 0.001 looks like a learning rate" in note]
    assert notes(QHM(params, lr=1e-3, backend=site.backend)) == []


def test_parameters_without_a_gradient(params: list[nn.Parameter], site: Site) -> None:
    frozen = nn.Parameter(torch.zeros(2, device=site.device), requires_grad=False)
    idle = [nn.Parameter(torch.zeros(2, device=site.device)) for _ in range(4)]
    optimizer = QHM([*params, frozen, *idle], lr=0.1, backend=site.backend)
    assert notes(optimizer) == []  # before the first step nobody knows
    stepped(optimizer, params)
    expected = "  - 4 parameters have never had a gradient: number 4, number 5, number 6, ..."
    assert notes(optimizer) == [expected]


def test_a_step_that_was_skipped_last(kind: Kind, site: Site, params: list[nn.Parameter]) -> None:
    """However many good ones came before; one good step takes it back."""
    options = {"lr" if kind.tunes or kind.optimizer is LAMB else "max_norm": 1.0}
    optimizer = stepped(kind.build(params, backend=site.backend, **options), params)
    stepped(optimizer, params, steps=1, size=math.nan)
    (note,) = notes(optimizer)
    assert note.startswith("  - the last step was skipped, as its gradient was not finite")
    again = kind.build(params, backend=site.backend, **options)
    again.load_state_dict(optimizer.state_dict())
    assert notes(again) == [], "it has seen no step"
    assert notes(stepped(optimizer, params, steps=1)) == []


def test_no_gradient_was_ever_finite(site: Site, params: list[nn.Parameter]) -> None:
    optimizer = stepped(LAMB(params, backend=site.backend), params, steps=2, size=math.nan)
    assert "gradient  its norm has not been finite so far" in optimizer.explain()
    (note,) = notes(optimizer)
    assert note.startswith("  - no gradient so far was finite")


def test_parameters_that_are_not_finite(site: Site, params: list[nn.Parameter]) -> None:
    named = [("first", params[0]), ("second", params[1])]
    optimizer = stepped(QHM(named, lr=0.1, backend=site.backend), params)
    params[1].grad = torch.full_like(params[1], math.nan)
    optimizer.step()
    assert notes(optimizer) == [
        "  - parameters that are not finite: second; go back to a checkpoint"
    ]


def test_a_group_added_late_does_not_stand_still(site: Site, params: list[nn.Parameter]) -> None:
    """It has had no step yet."""
    optimizer = stepped(YellowFin(params[:2], backend=site.backend), params)
    optimizer.add_param_group({"params": params[2:]})
    assert "1: 1 tensor of 1 elements, step size 0" in optimizer.explain()
    assert "stands still" not in optimizer.explain()


def test_the_lr_of_the_step_not_of_the_next(site: Site, params: list[nn.Parameter]) -> None:
    optimizer = stepped(LAMB(params, lr=0.25, backend=site.backend), params)
    optimizer.param_groups[0]["lr"] = 0.0  # a schedule that has ended
    assert "step size 0.25" in optimizer.explain()


def test_a_class_that_a_framework_derives(site: Site, params: list[nn.Parameter]) -> None:
    derived = type("FrameworkYellowFin", (YellowFin,), {})
    optimizer = stepped(derived(params, backend=site.backend), params)
    assert optimizer.explain().startswith("YellowFin, 5 steps taken")
