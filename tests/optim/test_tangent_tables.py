"""Tables of hypergradient tuners: built once, and right where two kinds of pass meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yfkernels import HD, MARTHE
from yfkernels.ops.table import TensorTable
from yfkernels.optim import _tangents

SGD, Adam = torch.optim.SGD, torch.optim.Adam


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[TensorTable]:
    """The tables that tuners have built."""
    tables: list[TensorTable] = []

    class Counted(TensorTable):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            tables.append(self)

    monkeypatch.setattr(_tangents, "TensorTable", Counted)
    return tables


@pytest.fixture
def seed(rng: Any) -> int:
    return int(rng.integers(2**31))


def network(seed: int) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
    return model, torch.randn(9, 5)


@pytest.mark.parametrize("base", [SGD, Adam])
def test_no_table_is_built_twice_where_a_validation_reaches_less(
    base: Callable[..., Any], built: list[TensorTable], seed: int
) -> None:
    model, x = network(seed)
    trained_only = nn.Parameter(torch.ones(3))
    tuner = MARTHE(base([*model.parameters(), trained_only], lr=0.01), mu=0.9)

    def validation() -> Tensor:
        return model(x).square().mean()

    for step in range(5):
        tuner.step(lambda: validation() + trained_only.square().sum(), validation)
        if step == 1:  # from then on there are slots, and gradients in their places
            built.clear()
    assert not built


def test_groups_that_recall_their_last_step_in_two_ways(seed: int) -> None:
    """After steps by hand both groups have a buffer; of Nesterov's it does not tell the step."""
    rates = []
    for backend in ("auto", "torch"):
        model, x = network(seed)
        groups = [
            {"params": list(model[0].parameters()), "nesterov": True},
            {"params": list(model[2].parameters())},
        ]
        base = SGD(groups, lr=0.05, momentum=0.9)

        def backward(model: nn.Module = model, x: Tensor = x, base: Any = base) -> None:
            base.zero_grad()
            (model(x) - 1.0).square().mean().backward()

        for _ in range(2):
            backward()
            base.step()
        optimizer = HD(base, backend=backend)
        for _ in range(4):
            backward()
            optimizer.step()
            rates.append(optimizer.diagnostics()["lr"])
    fused, plain = rates[:4], rates[4:]
    for found, wanted in zip(fused, plain):
        assert found == pytest.approx(wanted, rel=1e-5)
    assert fused[-1][0] != fused[-1][1] != 0.05
