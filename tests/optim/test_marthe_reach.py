"""MARTHE where not every step reaches every parameter, group and module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yfkernels import MARTHE, RTHO

SGD = torch.optim.SGD


@pytest.fixture
def seed(rng: Any) -> int:
    return int(rng.integers(2**31))


class Heads(nn.Module):
    """A trunk, and two heads of which a call uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(5, 6)
        self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(2))

    def forward(self, x: Tensor, head: int) -> Tensor:
        return self.heads[head](self.trunk(x).tanh())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_heads_that_are_trained_in_turn(momentum: float, seed: int) -> None:
    """The hypergradient with mu = 1 is the central difference, of all parameters."""

    def made() -> tuple[Heads, Tensor]:
        torch.manual_seed(seed)
        return Heads().double(), torch.randn(7, 5, dtype=torch.float64)

    def validation(model: Heads, x: Tensor) -> Tensor:
        return sum((model(x, head) - 1.0).square().mean() for head in (0, 1))  # type: ignore[return-value]

    def loss_after(lr: float) -> float:
        model, x = made()
        base = SGD(model.parameters(), lr=lr, momentum=momentum)
        for t in range(5):
            base.zero_grad()
            model(x, t % 2).square().mean().backward()
            base.step()
        return validation(model, x).item()

    model, x = made()
    tuner = RTHO(SGD(model.parameters(), lr=0.05, momentum=momentum), hyper_lr=0.0)
    for t in range(5):
        tuner.step(
            lambda t=t: model(x, t % 2).square().mean(),  # type: ignore[misc]
            lambda: validation(model, x),
        )
    wanted = (loss_after(0.05 + 1e-6) - loss_after(0.05 - 1e-6)) / 2e-6
    assert tuner.diagnostics()["hypergradient"] == [pytest.approx(wanted, rel=1e-7, abs=1e-8)]


def test_a_group_that_forgets_feels_the_others(seed: int) -> None:
    """mu = 0 in one group is the limit of a small one: H z has the others' Z in it."""
    found = []
    for forgetting in (0.0, 1e-12):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1)).double()
        x = torch.randn(9, 5, dtype=torch.float64)
        groups = [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters())}]
        tuner = MARTHE(SGD(groups, lr=0.1, momentum=0.9), mu=1.0, hyper_lr=0.0)
        loss: Callable[[], Tensor] = lambda: model(x).square().mean()  # noqa: B023, E731
        tuner.step(loss, loss)
        for _ in range(3):
            tuner._descents[1].mu = forgetting
            tuner.step(loss, loss)
        found.append(tuner.diagnostics()["hypergradient"])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@pytest.mark.parametrize("hvp", ["reverse", "central", "forward", "jvp"])
@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_modules_that_are_called_later(mu: float, hvp: str, seed: int) -> None:
    """Each BatchNorm counts the training steps that call it, and no validation."""
    torch.manual_seed(seed)
    first, second, only_validated = (
        nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh()) for _ in range(3)
    )
    head = nn.Linear(4, 1)
    parts = nn.ModuleList([first, second, only_validated, head]).double()
    x = torch.randn(12, 5, dtype=torch.float64)
    given = {"model": parts} if hvp == "jvp" else {}  # which has to know every owner
    tuner = MARTHE(SGD(parts.parameters(), lr=0.05), mu=mu, hvp=hvp, **given)

    def validation() -> Tensor:
        return head(first(x) + second(x) + only_validated(x)).square().mean()

    for t in range(5):
        inside = [first] if t == 0 else [first, second]
        tuner.step(
            lambda inside=inside: head(sum(part(x) for part in inside)).square().mean(),  # type: ignore[misc]
            validation,
        )
    counted = [int(part[1].num_batches_tracked) for part in (first, second, only_validated)]
    assert counted == [5, 4, 0]
    assert all(part.training for part in parts)
