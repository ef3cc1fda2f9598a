"""Mixed precision: torch's GradScaler, unscaling in the kernel, skipped steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.cases import SMALL, Gradients, Group, Site, assert_same_bits, normal, specs
from support.kinds import KINDS, Kind

from yfkernels import LAMB, YellowFin

SCALE = 2.0**10


def scaler_for(site: Site) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(site.device, init_scale=SCALE, growth_interval=10_000)


def scaled(gradients: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    return [None if g is None else SCALE * g for g in gradients]


def clipped(kind: Kind) -> dict[str, float]:
    """The clip of the gradient's norm, of those that have one."""
    return {YellowFin: {"max_norm": 0.5}, LAMB: {"max_grad_norm": 0.5}}.get(kind.optimizer, {})


def start(scaler: torch.amp.GradScaler, site: Site) -> None:
    """A scaler makes its scale when it first scales a loss."""
    scaler.scale(torch.ones((), device=site.device))


@pytest.mark.parametrize("capturable", [False, True])
def test_unscales_in_the_step(
    capturable: bool, kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    twin = kind.beside(
        site, SMALL, rng, capturable=capturable, fused=True, weight_decay=0.1, **clipped(kind)
    )
    scaler = scaler_for(site)
    start(scaler, site)
    for gradients in Gradients(8, poison={2: np.inf, 5: np.nan}).draw(rng, twin.params):
        scale = scaler.get_scale()
        twin.set_gradients([scale * g for g in gradients if g is not None])
        twin.step(call=lambda: scaler.step(twin.optimizer), grad_scale=scale)
        scaler.update()
    assert twin.optimizer.diagnostics()["skipped_steps"] == 2
    assert scaler.get_scale() == SCALE / 4  # every skipped step halved it
    assert not hasattr(twin.optimizer, "grad_scale")


def test_half_gradients_are_unscaled_in_float32(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """Unscaled they would be subnormal or zero in float16."""
    twin = kind.beside(site, (Group(specs((50,), dtype=torch.float16)),), rng, fused=True)
    scaler = torch.amp.GradScaler(site.device, init_scale=2.0**20)
    start(scaler, site)
    for _ in range(3):
        g = normal(rng, twin.params[0])
        twin.step([g], call=lambda: scaler.step(twin.optimizer), grad_scale=2.0**20)
        scaler.update()
    assert 0.0 < twin.optimizer.diagnostics()["grad_norm"] < 1e-4


def test_after_unscale(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """scaler.unscale_() first, to clip or to look at the gradients: they are not unscaled twice."""
    twin = kind.beside(site, SMALL, rng, fused=True)
    scaler = scaler_for(site)
    start(scaler, site)
    for gradients in Gradients(5, poison={2: np.nan}).draw(rng, twin.params):
        scale = scaler.get_scale()
        twin.set_gradients([scale * g for g in gradients if g is not None])
        scaler.unscale_(twin.optimizer)
        twin.step(call=lambda: scaler.step(twin.optimizer))
        scaler.update()
    assert twin.optimizer.diagnostics()["skipped_steps"] == 1


def test_found_inf_skips_finite_gradients(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """Another rank or another optimizer of the same scaler may have met the infinity."""
    twin = kind.beside(site, SMALL, rng)
    for k, gradients in enumerate(Gradients(6).draw(rng, twin.params)):
        twin.optimizer.grad_scale = torch.full((), SCALE, device=site.device)
        twin.optimizer.found_inf = torch.full((), float(k in (0, 3)), device=site.device)
        twin.step(scaled(gradients), grad_scale=SCALE, found_inf=k in (0, 3))
        del twin.optimizer.grad_scale, twin.optimizer.found_inf
    assert twin.optimizer.diagnostics()["skipped_steps"] == 2


def test_the_scale_may_change(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    twin = kind.beside(site, SMALL, rng)
    for k, gradients in enumerate(Gradients(6).draw(rng, twin.params)):
        scale = 2.0 ** (k % 3 * 8)
        twin.optimizer.grad_scale = torch.full((), scale, device=site.device)
        twin.optimizer.found_inf = torch.zeros((), device=site.device)
        twin.step([scale * g for g in gradients if g is not None], grad_scale=scale)


@pytest.mark.kernel_free
def test_scaler_disabled(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    twin = kind.beside(site, SMALL, rng)
    scaler = torch.amp.GradScaler(site.device, enabled=False)
    for gradients in Gradients(3).draw(rng, twin.params):
        twin.step(gradients, call=lambda: scaler.step(twin.optimizer))


@pytest.mark.kernel_free
def test_scaler_without_any_gradient(kind: Kind, site: Site, rng: np.random.Generator) -> None:
    """found_inf is then the plain number 0, since no device reported one."""
    twin = kind.beside(site, SMALL, rng, fused=True)
    scaler = scaler_for(site)
    start(scaler, site)
    before = copy.deepcopy([p.detach() for p in twin.params])
    scaler.step(twin.optimizer)
    assert_same_bits(before, [p.detach() for p in twin.params])


@pytest.mark.parametrize("kind", [k for k in KINDS if k.measures], ids=str)
def test_found_inf_skips_without_a_measurement(
    kind: Kind, site: Site, rng: np.random.Generator
) -> None:
    """What GradScaler found is heeded where the optimizer itself looks at nothing."""
    blind = {"max_grad_norm": None} if kind.optimizer is LAMB else {}
    twin = kind.beside(site, SMALL, rng, skip_nonfinite=False, **blind)
    for k, gradients in enumerate(Gradients(7, poison={2: np.nan}).draw(rng, twin.params)):
        scale, overflow = 2.0 ** (k % 3 * 8), k in (0, 2, 4)
        twin.optimizer.grad_scale = torch.full((), scale, device=site.device)
        twin.optimizer.found_inf = torch.full((), float(overflow), device=site.device)
        present = [scale * g for g in gradients if g is not None]
        twin.step(present, grad_scale=scale, found_inf=overflow)
        del twin.optimizer.grad_scale, twin.optimizer.found_inf
    twin.step(present)  # and no trace of the scale is left
    assert twin.optimizer.diagnostics()["skipped_steps"] == 3


@pytest.mark.kernel_free
def test_autocast_training(kind: Kind, site: Site) -> None:
    """The usual loop, on a real model."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1, device=site.device)
    x = torch.randn(32, 8, device=site.device)
    y = x.sum(1, keepdim=True)
    optimizer = kind.build(model.parameters(), backend=site.backend)
    scaler = torch.amp.GradScaler(site.device)
    losses = []
    for _ in range(25 if site.interpreted else 150):
        optimizer.zero_grad()
        with torch.autocast(site.device, dtype=torch.bfloat16):
            loss = torch.nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
