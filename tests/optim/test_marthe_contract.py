"""MARTHE inside other people's programs: groups, odd parameters, wrappers, overflow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import hypergradient as oracle
from torch import Tensor, nn

from yfkernels import MARTHE, RTHO
from yfkernels.tuners.hypergradient import Normalized, normalized_step

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


@pytest.fixture
def seed(rng: Any) -> int:
    return int(rng.integers(2**31))


def network(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1)).double(), torch.randn(
        16, 6, dtype=torch.float64
    )


@pytest.mark.parametrize("base", [SGD, AdamW])
def test_maximizing_is_minimizing_the_negative(base: Callable[..., Any], seed: int) -> None:
    lrs, weights = [], []
    for sign in (1.0, -1.0):
        model, x = network(seed)
        tuner = MARTHE(base(model.parameters(), lr=0.01, maximize=sign < 0), mu=0.9)

        def loss(model: nn.Module = model, x: Tensor = x, sign: float = sign) -> Tensor:
            return sign * (model(x) - 1.0).square().mean()

        for _ in range(6):
            tuner.step(loss, loss)
        lrs.append(tuner.diagnostics()["lr"][0])
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert lrs[0] == pytest.approx(lrs[1], rel=1e-9)
    assert lrs[0] > 0.01
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_the_users_lr_stays_what_it_is(tensor: bool, seed: int) -> None:
    model, x = network(seed)
    given = torch.tensor(0.01) if tensor else 0.01
    base = AdamW(model.parameters(), lr=given, foreach=False)
    tuner = MARTHE(base)
    for _ in range(3):
        tuner.step(lambda: model(x).square().mean(), lambda: model(x).square().mean())
    assert base.param_groups[0]["lr"] is given
    assert float(given) == pytest.approx(0.01)
    assert tuner.diagnostics()["lr"][0] != pytest.approx(0.01)


def test_odd_parameters(seed: int) -> None:
    """One without elements, one frozen, one that no loss reaches, one that is added later."""
    model, x = network(seed)
    empty, frozen, idle, late = (
        nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (0, 3, 4, 1)
    )
    frozen.requires_grad_(False)
    base = SGD([*model.parameters(), empty, frozen, idle], lr=0.01, momentum=0.9)
    tuner = MARTHE(base, mu=0.5)

    def loss() -> Tensor:
        return (model(x) * late - 1.0).square().mean() + empty.sum()

    for _ in range(3):
        tuner.step(loss, loss)
    base.add_param_group({"params": [late], "lr": 0.1})
    tuner.step(loss, loss)
    tuner.step(loss, loss)
    assert len(tuner.diagnostics()["lr"]) == 2
    assert tuner.diagnostics()["lr"][1] != 0.1
    assert late.item() != 1.0
    for untouched in (frozen, idle):
        assert torch.equal(untouched, torch.ones_like(untouched))


def test_several_groups_share_one_shift(seed: int) -> None:
    """The parts of the groups add up to the derivative to a common change of their rates."""
    model, x = network(seed)
    first, second = model[0], model[2]  # type: ignore[index]

    def losses(shift: float) -> float:
        copy, x = network(seed)
        rates = (0.01 + shift, 0.03 + shift)
        groups = [
            {"params": list(part.parameters()), "lr": lr}
            for part, lr in zip((copy[0], copy[2]), rates)  # type: ignore[index]
        ]
        base = SGD(groups, lr=1.0, momentum=0.9)
        for _ in range(4):
            base.zero_grad()
            copy(x).square().mean().backward()
            base.step()
        return (copy(x) - 1.0).square().mean().item()

    groups = [
        {"params": list(first.parameters()), "lr": 0.01},
        {"params": list(second.parameters()), "lr": 0.03},
    ]
    tuner = MARTHE(SGD(groups, lr=1.0, momentum=0.9), mu=1.0, hyper_lr=0.0)
    for _ in range(4):
        tuner.step(lambda: model(x).square().mean(), lambda: (model(x) - 1.0).square().mean())
    wanted = (losses(1e-6) - losses(-1e-6)) / 2e-6
    assert sum(tuner.diagnostics()["hypergradient"]) == pytest.approx(wanted, rel=1e-7, abs=1e-8)


def test_a_product_that_overflows_begins_anew() -> None:
    """H = 1e18, g = 1e18 w, and Z = -g after a step: the square of H Z is beyond float32."""
    w = nn.Parameter(torch.tensor(1.0))
    tuner = MARTHE(SGD([w], lr=1e-19), mu=1.0, hyper_lr=0.0)
    for wanted in (0.9, 0.81):
        tuner.step(lambda: 0.5e18 * w * w, lambda: w * 1e-30)
        assert w.item() == pytest.approx(wanted)
        z = tuner.state_dict()["tangents"][0][0]
        assert z.item() == pytest.approx(-1e18 * wanted / 0.9)  # of this step alone
    assert tuner.diagnostics()["skipped_steps"] == 0


def test_wrapped_models_are_refused(seed: int) -> None:
    model, x = network(seed)
    tuner = MARTHE(SGD(model.parameters(), lr=0.01))
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    before = [p.detach().clone() for p in model.parameters()]
    tuner = MARTHE(SGD(model.parameters(), lr=0.01), model=wrapped)
    with pytest.raises(RuntimeError, match="MARTHE takes its gradients without backward"):
        tuner.step(lambda: model(x).square().mean())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_rtho_has_no_mu() -> None:
    with pytest.raises(TypeError, match="Invalid option 'mu': RTHO is MARTHE with mu = 1"):
        RTHO(SGD([nn.Parameter(torch.ones(1))], lr=0.1), mu=0.5)


@pytest.mark.parametrize(
    ("dot", "norms"),
    [(0.0, (1.0, 1.0)), (1.0, (0.0, 1.0)), (float("nan"), (1.0, 1.0)), (1.0, (float("inf"), 1.0))],
)
def test_no_direction_no_step(dot: float, norms: tuple[float, float]) -> None:
    state = Normalized(2.0, 1.0, 0.1, 5.0)
    assert normalized_step(0.1, dot, norms, state, 0.3) == (0.1, state)


def test_the_brake(rng: Any) -> None:
    """A gradient that has been steady for long jumps and goes on to grow, against the moves."""
    form, state, lr = oracle.Normalized(0.3), Normalized(), 0.1
    for step in range(58):
        unstable = step >= 55
        direction = torch.as_tensor(rng.standard_normal(9))
        size = 50.0 * 1.7 ** (step - 55) if unstable else 1.0 + 0.01 * rng.standard_normal()
        e = direction * (size / direction.norm())
        z = direction * (1.0 if unstable else -1.0)
        before = lr
        norms = float(e.norm()), float(z.norm())
        lr, state = normalized_step(lr, float(e @ z), norms, state, 0.3)
        assert lr == pytest.approx(before * form.factor(e, z), rel=1e-9)
        if unstable:
            assert lr == pytest.approx(before * math.exp(-3.0))


@pytest.mark.parametrize("which", ["training", "validation"])
def test_a_closure_over_another_model_is_named(which: str, seed: int) -> None:
    model, x = network(seed)
    other, _ = network(seed)
    tuner = MARTHE(SGD(model.parameters(), lr=0.01))
    models = {"training": model, "validation": model, which: other}
    with pytest.raises(
        ValueError, match=f"Invalid {which}_closure: its loss depends on none of .* copy"
    ):
        tuner.step(*(lambda m=m: m(x).square().mean() for m in models.values()))  # type: ignore[misc]
    assert tuner.diagnostics()["lr"] == [0.01]


def test_mu_may_be_set(seed: int) -> None:
    model, x = network(seed)
    tuner = MARTHE(SGD(model.parameters(), lr=0.01))
    tuner.step(lambda: model(x).square().mean(), lambda: model(x).square().mean())
    tuner.mu = 0.5
    assert tuner.diagnostics()["mu"] == [0.5]
    with pytest.raises(ValueError, match=r"Invalid mu value: 7; it must be in \[0, 1\]"):
        tuner.mu = 7
    assert tuner.mu == 0.5


def test_a_state_that_was_loaded_is_nobody_elses(seed: int) -> None:
    model, x = network(seed)
    tuner = MARTHE(SGD(model.parameters(), lr=0.01), mu=0.9)
    tuner.step(lambda: model(x).square().mean())
    saved = tuner.state_dict()
    before = [z.clone() for each in saved["tangents"].values() for z in each]
    other, _ = network(seed)
    second = MARTHE(SGD(other.parameters(), lr=0.01), mu=0.9)
    second.load_state_dict(saved)
    second.step(lambda: other(x).square().mean())
    after = [z for each in saved["tangents"].values() for z in each]
    assert all(torch.equal(a, b) for a, b in zip(after, before))


def test_it_validates_every_nth_step(seed: int) -> None:
    """Counted through a resume; the learning rate stays in the steps between."""
    model, x = network(seed)
    called: list[int] = []

    def tuner_over(model: nn.Module) -> MARTHE:
        return MARTHE(SGD(model.parameters(), lr=0.01), mu=0.9, validate_every=3)

    def steps(tuner: MARTHE, model: nn.Module, which: range) -> None:
        for t in which:

            def validation(t: int = t) -> Tensor:
                called.append(t)
                return (model(x) - 1.0).square().mean()

            before = tuner.diagnostics()["lr"]
            tuner.step(lambda: model(x).square().mean(), validation)
            assert (tuner.diagnostics()["lr"] != before) == (t % 3 == 0)

    tuner = tuner_over(model)
    steps(tuner, model, range(1, 6))
    resumed = tuner_over(model)
    resumed.load_state_dict(tuner.state_dict())
    steps(resumed, model, range(6, 10))
    assert called == [3, 6, 9]
