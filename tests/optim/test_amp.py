"""Mixed precision: torch's GradScaler, unscaling in the kernel, skipped steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from cases import SMALL, Gradients, Group, Target, assert_same_bits, normal, specs
from twin import Twin

from yfkernels import YellowFin

SCALE = 2.0**10


def scaler_for(target: Target) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(target.device, init_scale=SCALE, growth_interval=10_000)


def scaled(gradients: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    return [None if g is None else SCALE * g for g in gradients]


def start(scaler: torch.amp.GradScaler, target: Target) -> None:
    """A scaler makes its scale when it first scales a loss."""
    scaler.scale(torch.ones((), device=target.device))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("variance", ["exact", "sketch"])
def test_unscales_in_the_step(
    variance: str, capturable: bool, target: Target, rng: np.random.Generator
) -> None:
    twin = Twin(
        target, SMALL, rng, variance=variance, capturable=capturable, max_norm=0.5, weight_decay=0.1
    )
    scaler = scaler_for(target)
    start(scaler, target)
    for gradients in Gradients(8, poison={2: np.inf, 5: np.nan}).draw(rng, twin.params):
        scale = scaler.get_scale()
        twin.set_gradients([scale * g for g in gradients if g is not None])
        twin.step(call=lambda: scaler.step(twin.optimizer), grad_scale=scale)
        scaler.update()
    assert twin.optimizer.diagnostics()["skipped_steps"] == 2
    assert scaler.get_scale() == SCALE / 4  # every skipped step halved it
    assert not hasattr(twin.optimizer, "grad_scale")


def test_half_gradients_are_unscaled_in_float32(target: Target, rng: np.random.Generator) -> None:
    """Unscaled they would be subnormal or zero in float16."""
    twin = Twin(target, (Group(specs((50,), dtype=torch.float16)),), rng)
    scaler = torch.amp.GradScaler(target.device, init_scale=2.0**20)
    start(scaler, target)
    for _ in range(3):
        g = normal(rng, twin.params[0])
        twin.step([g], call=lambda: scaler.step(twin.optimizer), grad_scale=2.0**20)
        scaler.update()
    assert 0.0 < twin.optimizer.diagnostics()["grad_norm"] < 1e-4


def test_after_unscale(target: Target, rng: np.random.Generator) -> None:
    """scaler.unscale_() first, to clip or to look at the gradients: they are not unscaled twice."""
    twin = Twin(target, SMALL, rng)
    scaler = scaler_for(target)
    start(scaler, target)
    for gradients in Gradients(5, poison={2: np.nan}).draw(rng, twin.params):
        scale = scaler.get_scale()
        twin.set_gradients([scale * g for g in gradients if g is not None])
        scaler.unscale_(twin.optimizer)
        twin.step(call=lambda: scaler.step(twin.optimizer))
        scaler.update()
    assert twin.optimizer.diagnostics()["skipped_steps"] == 1


def test_found_inf_skips_finite_gradients(target: Target, rng: np.random.Generator) -> None:
    """Another rank or another optimizer of the same scaler may have met the infinity."""
    twin = Twin(target, SMALL, rng)
    for k, gradients in enumerate(Gradients(6).draw(rng, twin.params)):
        twin.optimizer.grad_scale = torch.full((), SCALE, device=target.device)
        twin.optimizer.found_inf = torch.full((), float(k in (0, 3)), device=target.device)
        twin.step(scaled(gradients), grad_scale=SCALE, found_inf=k in (0, 3))
        del twin.optimizer.grad_scale, twin.optimizer.found_inf
    assert twin.optimizer.diagnostics()["skipped_steps"] == 2


def test_the_scale_may_change(target: Target, rng: np.random.Generator) -> None:
    twin = Twin(target, SMALL, rng)
    for k, gradients in enumerate(Gradients(6).draw(rng, twin.params)):
        scale = 2.0 ** (k % 3 * 8)
        twin.optimizer.grad_scale = torch.full((), scale, device=target.device)
        twin.optimizer.found_inf = torch.zeros((), device=target.device)
        twin.step([scale * g for g in gradients if g is not None], grad_scale=scale)


@pytest.mark.kernel_free
def test_scaler_disabled(target: Target, rng: np.random.Generator) -> None:
    twin = Twin(target, SMALL, rng)
    scaler = torch.amp.GradScaler(target.device, enabled=False)
    for gradients in Gradients(3).draw(rng, twin.params):
        twin.step(gradients, call=lambda: scaler.step(twin.optimizer))


@pytest.mark.kernel_free
def test_scaler_without_any_gradient(target: Target, rng: np.random.Generator) -> None:
    """found_inf is then the plain number 0, since no device reported one."""
    twin = Twin(target, SMALL, rng)
    scaler = scaler_for(target)
    start(scaler, target)
    before = copy.deepcopy([p.detach() for p in twin.params])
    scaler.step(twin.optimizer)
    assert_same_bits(before, [p.detach() for p in twin.params])


@pytest.mark.kernel_free
def test_autocast_training(target: Target) -> None:
    """The usual loop, on a real model."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1, device=target.device)
    x = torch.randn(32, 8, device=target.device)
    y = x.sum(1, keepdim=True)
    optimizer = YellowFin(model.parameters(), backend=target.backend)
    scaler = torch.amp.GradScaler(target.device)
    losses = []
    for _ in range(25 if target.interpreted else 150):
        optimizer.zero_grad()
        with torch.autocast(target.device, dtype=torch.bfloat16):
            loss = torch.nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
