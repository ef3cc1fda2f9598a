"""The learning rate as torch.optim knows it: a float or a tensor, by hand or by a scheduler."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.cases import Site, assert_same_bits
from support.training import Build, Model, backward, moved, train, values
from torch.optim import lr_scheduler

pytestmark = pytest.mark.kernel_free


@pytest.mark.parametrize("shape", [(), (1,)])
def test_tensor_lr(shape: tuple[int, ...], build: Build, model: Model, site: Site) -> None:
    reference = copy.deepcopy(model)
    lr = torch.full(shape, 0.5, device=site.device)
    optimizer, other = build(model.parameters(), lr=lr), build(reference.parameters(), lr=0.5)
    train(model, optimizer)
    train(reference, other)
    assert_same_bits(values(model), values(reference))
    lr.fill_(0.0)
    before = values(model)
    train(model, optimizer, 2)
    assert not moved(model, before)


SCHEDULERS: list[Callable[[torch.optim.Optimizer], Any]] = [
    lambda o: lr_scheduler.LambdaLR(o, lambda k: 0.5**k),
    lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    lambda o: lr_scheduler.OneCycleLR(o, 2.0, 10, cycle_momentum=False),
    lr_scheduler.LinearLR,
    lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
]


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("make", SCHEDULERS)
def test_schedulers(
    make: Callable[[torch.optim.Optimizer], Any],
    tensor_lr: bool,
    build: Build,
    model: Model,
    site: Site,
) -> None:
    """The same as setting the scheduled values by hand."""
    reference = copy.deepcopy(model)
    start = torch.tensor(0.5, device=site.device) if tensor_lr else 0.5
    optimizer, other = build(model.parameters(), lr=start), build(reference.parameters(), lr=0.5)
    scheduler = make(optimizer)
    lrs = set()
    for k in range(5):
        other.param_groups[0]["lr"] = float(optimizer.param_groups[0]["lr"])
        lrs.add(other.param_groups[0]["lr"])
        for m, o in ((model, optimizer), (reference, other)):
            o.zero_grad()
            backward(m, k)
            o.step()
        scheduler.step()
    assert len(lrs) > 1
    assert_same_bits(values(model), values(reference))


def test_reduce_on_plateau(build: Build, model: Model) -> None:
    optimizer = build(model.parameters())
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.0, patience=0)
    train(model, optimizer, 2)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.0
    before = values(model)
    train(model, optimizer, 2)
    assert not moved(model, before)
