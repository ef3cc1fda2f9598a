"""Sharpness along a training, which goes on as if nobody looked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import yfkernels
from yfkernels.analysis import SharpnessMonitor, sharpness

pytest.importorskip("scipy")

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def batches() -> Batches:
    return [(torch.randn(16, 4), torch.randint(3, (16,))) for _ in range(3)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, count: int) -> None:
    for number in range(count):
        inputs, targets = batches[number % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("make", [yfkernels.YellowFin, torch.optim.Adam])
def test_training_is_the_same_bit_for_bit(make: Any, batches: Batches) -> None:
    models = [net(), net()]
    for model, watched in zip(models, (True, False)):
        torch.manual_seed(1)  # of the dropout
        optimizer = make(model.parameters())
        if watched:
            monitor = SharpnessMonitor(model, F.cross_entropy, batches, optimizer, every=2)
        steps(model, optimizer, batches, 7)
    assert [reading.step for reading in monitor.readings] == [2, 4, 6]
    for (name, one), two in zip(models[0].state_dict().items(), models[1].state_dict().values()):
        assert one.equal(two), name
    assert all(module.training for module in models[0].modules())


def test_readings_are_those_of_sharpness(batches: Batches) -> None:
    model = net()
    optimizer = yfkernels.YellowFin(model.parameters())
    with SharpnessMonitor(model, F.cross_entropy, batches, optimizer, every=5) as monitor:
        steps(model, optimizer, batches, 5)
    keskar, top = (sharpness(model, F.cross_entropy, batches, m) for m in ("keskar", "lambda_max"))
    (reading,) = monitor.readings
    assert reading.results == {"keskar": keskar, "lambda_max": top}
    assert reading.row() == {
        "step": 5,
        "loss": keskar.loss,
        "keskar": keskar.value,
        "adaptive": keskar.adaptive.value,
        "lambda_max": top.value,
        **optimizer.diagnostics(),
    }
    steps(model, optimizer, batches, 5)
    assert len(monitor.readings) == 1  # it was removed


def test_measures_and_moments_may_be_chosen(batches: Batches) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measures = {"trace": {"samples": 2}}
    monitor = SharpnessMonitor(
        model, F.cross_entropy, batches, optimizer, every=None, measures=measures
    )
    steps(model, optimizer, batches, 3)
    assert monitor.readings == []
    reading = monitor.measure()
    assert reading.row().keys() == {"step", "loss", "trace"}
    assert reading.step == 3
    assert reading.results["trace"].options["samples"] == 2


@pytest.mark.parametrize("every", [0, -1])
def test_every_is_checked(every: int, batches: Batches) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=f"Invalid every value: {every}; it must be at least 1"):
        SharpnessMonitor(model, F.cross_entropy, batches, optimizer, every=every)
    assert not optimizer._optimizer_step_post_hooks
