"""LAMB: what sets its presets apart, and the defects of other implementations as tests."""

from __future__ import annotations

import copy
import inspect
import io
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Gradients, Group, Site, Spec, assert_same_bits, normal, same_bits, specs
from support.rule_twin import RuleTwin

from yfkernels import LAMB, param_groups

pytestmark = pytest.mark.kernel_free  # what kernels do is followed in test_rule_traces.py
HALF = (torch.bfloat16, torch.float16)
ADAPTS = {"always_adapt": True}


def parameters(
    rng: np.random.Generator, site: Site, *shapes: tuple[int, ...], dtype: Any = torch.float32
) -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(normal(rng, torch.empty(s)).to(site.device, dtype)) for s in shapes]
    for p in made:
        p.grad = normal(rng, p).to(site.device, dtype)
    return made


# ---- presets


@pytest.mark.parametrize(
    ("preset", "expected", "tolerance"),
    [
        *((preset, [1e-3] * 5, 1e-4) for preset in ("paper", "apex", "timm", "nvlamb")),
        ("deepspeed", [3.2e-4, None, None, None, 1.7e-4], 0.02),
    ],
)
def test_relative_update(
    preset: str,
    expected: list[float | None],
    tolerance: float,
    site: Site,
    rng: np.random.Generator,
) -> None:
    """‖change‖ / ‖p‖ at lr 1e-3 and weight decay 0.01: the same name, three times apart."""
    [p] = parameters(rng, site, (1000,))
    optimizer = LAMB([p], 1e-3, weight_decay=0.01, preset=preset, backend=site.backend)
    for change in expected:
        before = p.detach().clone()
        optimizer.step()
        relative = float((p.detach() - before).norm() / before.norm())
        if change is not None:
            assert relative == pytest.approx(change, rel=tolerance)


def test_deepspeed_falls_from_step_to_step(site: Site, rng: np.random.Generator) -> None:
    [p] = parameters(rng, site, (1000,))
    optimizer = LAMB([p], 1e-3, weight_decay=0.01, preset="deepspeed", backend=site.backend)
    changes = []
    for _ in range(5):
        before = p.detach().clone()
        optimizer.step()
        changes.append(float((p.detach() - before).norm()))
    assert changes == sorted(changes, reverse=True)


def test_presets_set_the_groups() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    group = LAMB([p], preset="deepspeed").param_groups[0]
    assert (group["weight_decay"], group["eps"], group["bias_correction"]) == (0.0, 1e-8, "lr")
    assert LAMB([p], preset="v3").param_groups[0]["weight_decay"] == 0.0
    assert LAMB([p], preset="v3", weight_decay=0.1).param_groups[0]["weight_decay"] == 0.1
    assert LAMB([p], preset="apex").param_groups == LAMB([p]).param_groups
    for options in ({"max_grad_norm": None}, {"always_adapt": True}, {"betas": (0.8, 0.9)}):
        LAMB([p], preset="paper", **options)  # what it fixes, or leaves open: no contradiction


def test_help_shows_the_defaults_without_a_preset() -> None:
    """Not the objects by which they are told from a user's own values."""
    parameters = inspect.signature(LAMB).parameters
    assert repr(parameters["eps"].default) == "1e-06"
    assert repr(parameters["trust_clip"].default) == "None"


# ---- trust ratios


def test_trust_ratios_by_name(site: Site, rng: np.random.Generator) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).to(site.device)
    optimizer = LAMB(param_groups(model, weight_decay=0.1), backend=site.backend)
    assert optimizer.trust_ratios() == {}
    model(torch.ones(2, 3, device=site.device)).square().sum().backward()
    before = model[0].weight.detach().clone()
    optimizer.step()
    ratios = optimizer.trust_ratios()
    assert set(ratios) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert ratios["0.bias"] == ratios["1.weight"] == ratios["1.bias"] == 1.0  # no weight decay
    change = float((model[0].weight.detach() - before).norm() / before.norm())
    assert change == pytest.approx(1e-3, rel=1e-3)
    assert ratios["0.weight"] != 1.0


def test_trust_ratios_without_names(site: Site, rng: np.random.Generator) -> None:
    params = parameters(rng, site, (3,), (4,))
    optimizer = LAMB([{"params": params[:1]}, {"params": params[1:]}], backend=site.backend)
    optimizer.step()
    assert set(optimizer.trust_ratios()) == {"0", "1"}


def test_trust_ratio_is_the_last_one_taken(site: Site, rng: np.random.Generator) -> None:
    """A tensor that pauses keeps its ratio, also while others start."""
    first, second, third = parameters(rng, site, (3,), (4,), (5,))
    third.grad = None
    optimizer = LAMB([first, second, third], backend=site.backend)
    optimizer.step()
    before = optimizer.trust_ratios()
    assert set(before) == {"0", "1"}
    first.grad = None
    optimizer.step()
    assert optimizer.trust_ratios()["0"] == before["0"]
    third.grad = torch.ones_like(third)
    optimizer.step()
    after = optimizer.trust_ratios()
    assert set(after) == {"0", "1", "2"}
    assert after["0"] == before["0"]


def test_zero_norms_take_ratio_one(site: Site, rng: np.random.Generator) -> None:
    zeros, still = parameters(rng, site, (5,), (6,))
    with torch.no_grad():
        zeros.zero_()
    still.grad = torch.zeros_like(still)
    before = still.detach().clone()
    optimizer = LAMB([zeros, still], weight_decay=0.0, backend=site.backend, **ADAPTS)
    optimizer.step()
    assert optimizer.trust_ratios() == {"0": 1.0, "1": 1.0}
    assert bool(zeros.detach().abs().min() > 0.0)
    assert same_bits(before, still.detach())


def test_tuple_or_list(site: Site, rng: np.random.Generator) -> None:
    values = parameters(rng, site, (9,))
    results = []
    for kind in (tuple, list):
        params = copy.deepcopy(values)
        params[0].grad = torch.ones_like(params[0])
        options = {"trust_clip": (0.1, 0.5), "trust_norm_bounds": (0.2, 2.0), "betas": (0.5, 0.9)}
        chosen = {name: kind(value) for name, value in options.items()}
        LAMB(params, backend=site.backend, **chosen).step()
        results.append(params[0].detach())
    assert_same_bits(*results)


# ---- defects of others


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_gradients_are_left_alone(dtype: torch.dtype, site: Site, rng: np.random.Generator) -> None:
    """apex and DeepSpeed overwrite them with the update; here clipping does not touch them."""
    params = parameters(rng, site, (70, 3), (9,), dtype=dtype)
    before = [p.grad.clone() for p in params]
    optimizer = LAMB(params, max_grad_norm=0.1, backend=site.backend)
    for _ in range(3):
        optimizer.step()
    assert_same_bits(before, [p.grad for p in params])


@pytest.mark.parametrize("off", [0, 0.0, None])
def test_clipping_can_be_turned_off(
    off: float | None, site: Site, rng: np.random.Generator
) -> None:
    """Elsewhere max_grad_norm = 0 multiplied the gradient by 0."""
    values = parameters(rng, site, (40,))
    results = []
    for norm in (off, 1e30):  # out of reach: no clip either
        params = copy.deepcopy(values)
        params[0].grad = 100.0 * values[0].grad
        optimizer = LAMB(params, max_grad_norm=norm, eps=1.0, backend=site.backend)
        optimizer.step()
        assert np.isnan(optimizer.diagnostics()["grad_norm"]) == (norm is off)
        assert bool(optimizer.state[params[0]]["exp_avg"].abs().max() > 1.0)
        results.append(params[0].detach())
    assert_same_bits(*results)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_parameters_have_float32_state(
    dtype: torch.dtype, site: Site, rng: np.random.Generator
) -> None:
    """Elsewhere bfloat16 is refused, and fp16 moments underflow: 1e-5 squared is 0 there."""
    [p] = parameters(rng, site, (40,), dtype=dtype)
    p.grad = torch.full_like(p, 1e-5)
    optimizer = LAMB([p], backend=site.backend)
    optimizer.step()
    state = optimizer.state[p]
    assert {name: t.dtype for name, t in state.items()} == dict.fromkeys(
        ("exp_avg", "exp_avg_sq", "master", "step"), torch.float32
    )
    assert bool((state["exp_avg_sq"] > 0.0).all())


def test_empty_tensor_in_last_place(site: Site, rng: np.random.Generator) -> None:
    """It suppressed the whole launch elsewhere."""
    groups = (Group(specs((20,), (3,), (0,))), Group(specs((0, 4))))
    twin = RuleTwin(LAMB, site, groups, rng)
    before = [p.detach().clone() for p in twin.params]
    twin.run(Gradients(4), rng)
    assert not torch.equal(before[0], twin.params[0])
    assert not torch.equal(before[1], twin.params[1])


def test_late_parameter_has_its_own_step(site: Site, rng: np.random.Generator) -> None:
    """A step shared by the group would debias its first average by far too little."""
    early, late = parameters(rng, site, (30,), (30,))
    late.grad = None
    optimizer = LAMB([early, late], 1e-3, max_grad_norm=None, backend=site.backend)
    for _ in range(5):
        optimizer.step()
    alone = torch.nn.Parameter(late.detach().clone())
    alone.grad = late.grad = normal(rng, late).to(late)
    fresh = LAMB([alone], 1e-3, max_grad_norm=None, backend=site.backend)
    optimizer.step()
    fresh.step()
    assert_same_bits(late.detach(), alone.detach())
    assert [float(optimizer.state[p]["step"]) for p in (early, late)] == [6.0, 1.0]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_masters_are_in_the_state_dict(
    dtype: torch.dtype, site: Site, rng: np.random.Generator
) -> None:
    """In full precision, through a file and through torch's cast of state to the parameter's."""
    params = parameters(rng, site, (40,), dtype=dtype)
    optimizer = LAMB(params, backend=site.backend)
    for _ in range(3):
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = LAMB(copy.deepcopy(params), backend=site.backend)
    other.load_state_dict(saved)
    [mine], [loaded] = optimizer.state.values(), other.state.values()
    assert_same_bits(dict(mine), dict(loaded))
    assert loaded["master"].dtype == torch.float32
    assert not torch.equal(loaded["master"], loaded["master"].to(dtype).float())


def test_max_grad_norm_per_group(site: Site, rng: np.random.Generator) -> None:
    """One norm, over all groups; each group clips to its own bound, or not at all."""
    params = parameters(rng, site, (30,), (30,), (30,))
    norm = float(torch.cat([p.grad for p in params]).norm())
    groups = [
        {"params": params[:1], "max_grad_norm": 0.5},
        {"params": params[1:2], "max_grad_norm": None},
        {"params": params[2:], "max_grad_norm": 1e6},
    ]
    optimizer = LAMB(groups, backend=site.backend)
    optimizer.step()
    for p, factor in zip(params, (0.5 / norm, 1.0, 1.0), strict=True):
        expected = 0.1 * factor * p.grad
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], expected, rtol=1e-5, atol=0)
    assert optimizer.diagnostics()["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_relative_precision_of_tiny_and_huge_tensors(site: Site, rng: np.random.Generator) -> None:
    """Norms far from 1, where float32 squares would leave their range."""
    groups = tuple(Group((Spec((50,)),), {"weight_decay": 0.01, "lr": 0.01}) for _ in range(2))
    twin = RuleTwin(LAMB, site, groups, rng, max_grad_norm=None)
    for group, p, scale in zip(twin.oracle.groups, twin.params, (1e-15, 1e15), strict=True):
        with torch.no_grad():
            p.mul_(scale)
        group.params = [p.detach().double().cpu().numpy().copy()]
    twin.run(Gradients(4), rng)
