"""Gradients that the user's own functions return from memory that is still theirs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from support.half_square import HalfSquare
from torch import Tensor, nn

from yfkernels import MARTHE, QHM, QHAdam
from yfkernels.optim._closed_forms import closed_form

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
MOMENTA: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9, "dampening": 0.1},
    {"momentum": 0.9, "nesterov": True},
]


class Held(torch.autograd.Function):
    """<w, g>, whose backward returns the tensor g itself."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, g: Tensor) -> Tensor:
        ctx.g = g
        return (w * g).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.g, None


def bases() -> Iterator[Any]:
    """All that have a closed form, in every form of torch's and with all that enters a gradient."""
    forms: list[dict[str, Any]] = [{"foreach": False}, {"foreach": True}, {"fused": True}, {}]
    for form, decay, maximize in itertools.product(forms, (0.0, 0.1), (False, True)):
        options = {**form, "weight_decay": decay, "maximize": maximize}
        for kind, own in [*((SGD, own) for own in MOMENTA), (Adam, {}), (AdamW, {})]:
            yield kind, options | own
    for kind, decay, maximize in itertools.product((QHM, QHAdam), (0.0, 0.1), (False, True)):
        for decoupled in (False, True):
            options = {"weight_decay": decay, "maximize": maximize}
            yield kind, options | {"decoupled_weight_decay": decoupled}


@pytest.mark.parametrize(("kind", "options"), list(bases()))
def test_a_held_gradient_stays(kind: Callable[..., Any], options: dict[str, Any]) -> None:
    w, g = nn.Parameter(torch.randn(9)), torch.randn(9)
    held, before = g, g.clone()
    tuner = MARTHE(kind([w], lr=0.01, **options), mu=0.9, hvp="central")
    for _ in range(3):
        tuner.step(lambda: Held.apply(w, held), lambda: w.square().sum())
        assert torch.equal(g, before)


@pytest.mark.parametrize(
    ("options", "copied"),
    [
        ({}, True),  # on an accelerator torch takes the foreach form
        ({"foreach": True}, True),
        ({"foreach": False}, False),
        ({"fused": True}, False),
        ({"nesterov": False}, False),
    ],
)
def test_the_one_step_that_writes_into_gradients(options: dict[str, Any], copied: bool) -> None:
    w = nn.Parameter(torch.ones(1))
    base = SGD([w], **{"lr": 0.1, "momentum": 0.9, "nesterov": True, **options})
    assert closed_form(base, "HD").writes_gradients(base.param_groups[0]) == copied


@pytest.mark.parametrize(
    "build",
    [
        partial(SGD, lr=0.1, weight_decay=0.1),
        partial(SGD, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
        partial(AdamW, lr=0.1, weight_decay=0.5, eps=1.0),
        partial(AdamW, lr=0.1, weight_decay=0.5, eps=1.0, foreach=True),
    ],
    ids=["SGD", "Nesterov", "AdamW", "AdamW foreach"],
)
def test_a_gradient_that_is_the_parameter(build: Callable[..., Any]) -> None:
    """AdamW decays before it reads the gradient, which the decay must not change."""
    first = torch.randn(9)
    plain, tuned = (nn.Parameter(first.clone()) for _ in range(2))
    base, tuner = build([plain]), MARTHE(build([tuned]), mu=0.9, hyper_lr=0.0, hvp="central")
    for _ in range(3):
        base.zero_grad()
        (plain.square().sum() / 2).backward()
        base.step()
        tuner.step(lambda: HalfSquare.apply(tuned), lambda: tuned.square().sum())
        torch.testing.assert_close(tuned, plain)
