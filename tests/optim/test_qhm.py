"""QHM is exactly the methods it covers, and QHAdam is Adam, AdamW and, nearly, NAdam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from oracle.momentum_methods import SPECIAL_CASES, NoisyQuadratic, SpecialCase
from support.cases import Gradients, Site, normal
from torch.optim import SGD, Adam, AdamW

from yfkernels import QHM, QHAdam

pytestmark = pytest.mark.kernel_free  # what kernels do is followed in test_rule_traces.py
Build = Callable[..., torch.optim.Optimizer]


@pytest.mark.parametrize("case", SPECIAL_CASES, ids=str)
def test_is_the_method(case: SpecialCase, site: Site, rng: np.random.Generator) -> None:
    """60 noisy steps in float64, each point to 1e-12 of the largest coordinate met."""
    problem = NoisyQuadratic(rng)
    expected = case.points(problem)
    x = torch.nn.Parameter(torch.tensor(problem.start, device=site.device))
    convert = getattr(QHM, f"from_{case.name}")
    optimizer = convert([x], backend=site.backend, **case.arguments)
    assert type(optimizer) is QHM
    points = [problem.start]
    for step in range(problem.steps):
        x.grad = torch.from_numpy(problem.gradient(points[-1], step)).to(site.device)
        optimizer.step()
        points.append(x.detach().cpu().numpy().copy())
    np.testing.assert_allclose(np.array(points), expected, rtol=0, atol=1e-12 * abs(expected).max())


def test_options_reach_the_constructor() -> None:
    """And a subclass stays one."""

    class Mine(QHM):
        pass

    options = {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}
    for case in SPECIAL_CASES:
        p = torch.nn.Parameter(torch.ones(2))
        made = getattr(Mine, f"from_{case.name}")([p], **case.arguments, **options)
        assert type(made) is Mine
        assert options.items() <= made.param_groups[0].items()


@dataclass(frozen=True)
class Equal:
    """An optimizer of torch and the one here that equals it."""

    name: str
    torch: Build
    ours: Build
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def adam(params: Any, **options: Any) -> QHAdam:
    return QHAdam(params, 0.01, nus=(1.0, 1.0), betas=(0.9, 0.99), **options)


DECAY, MAXIMIZE = {"weight_decay": 0.1}, {"maximize": True}
EQUAL = [
    Equal("SGD", lambda p, **o: SGD(p, 0.1, **o), lambda p, **o: QHM.from_sgd(p, lr=0.1, **o)),
    Equal(
        "momentum",
        lambda p, **o: SGD(p, 0.1, 0.9, **o),
        lambda p, **o: QHM.from_momentum(p, lr=0.1, momentum=0.9, **o),
        DECAY,
    ),
    Equal(
        "Nesterov",
        lambda p, **o: SGD(p, 0.1, 0.9, nesterov=True, **o),
        lambda p, **o: QHM.from_nesterov(p, lr=0.1, momentum=0.9, **o),
        {**DECAY, **MAXIMIZE},
    ),
    Equal("Adam", lambda p, **o: Adam(p, 0.01, (0.9, 0.99), **o), adam, DECAY),
    Equal("Adam, maximize", lambda p, **o: Adam(p, 0.01, (0.9, 0.99), **o), adam, MAXIMIZE),
    Equal(
        "AdamW",
        lambda p, **o: AdamW(p, 0.01, (0.9, 0.99), **o),
        lambda p, **o: adam(p, decoupled_weight_decay=True, **o),
        DECAY,
    ),
]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str
)
@pytest.mark.parametrize("case", EQUAL, ids=str)
def test_equals_torch(
    case: Equal, dtype: torch.dtype, tolerance: float, site: Site, rng: np.random.Generator
) -> None:
    """30 steps. In float32 both round, and momentum hands roundings on: 30 steps of 2^-23 and ten
    times that for the length of the memory."""
    start = [normal(rng, torch.empty(s)).to(site.device, dtype) for s in ((5, 7), (40,), ())]
    ours, theirs = ([torch.nn.Parameter(v.clone()) for v in start] for _ in range(2))
    mine = case.ours(ours, backend=site.backend, **case.options)
    reference = case.torch(theirs, **case.options)
    late = Gradients(30, present=lambda step, i: i != 1 or step >= 3)
    size = 1.0
    for gradients in late.draw(rng, ours):
        for p, q, g in zip(ours, theirs, gradients, strict=True):
            p.grad = q.grad = None if g is None else g.to(site.device, dtype)
        mine.step()
        reference.step()
        size = max(size, *(float(q.detach().abs().max()) for q in theirs))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance * size)


BAD_CONVERSIONS = [
    ("momentum", {"lr": 0.1, "momentum": 1.0}, "momentum"),
    ("momentum", {"lr": 0.1, "momentum": -0.1}, "momentum"),
    ("nesterov", {"lr": 0.1, "momentum": float("nan")}, "momentum"),
    ("nesterov", {"lr": -0.1, "momentum": 0.9}, "lr"),
    ("sgd", {"lr": float("nan")}, "lr"),
    ("sgd", {"lr": float("inf")}, "lr"),
    ("pid", {"kp": -0.8, "ki": 0.0, "kd": 1.6}, "ki"),
    ("pid", {"kp": -0.8, "ki": 1.0, "kd": 0.0}, "kd"),
    ("pid", {"kp": 1.6, "ki": 1.0, "kd": 1.6}, "kp"),
    ("pid", {"kp": 0.8, "ki": 1.0, "kd": 1.6}, "kp"),
    ("pid", {"kp": -0.8, "ki": -1.0, "kd": 1.6}, "lr|ki"),
    ("pid", {"kp": float("nan"), "ki": 1.0, "kd": 1.6}, "kp"),
    ("synthesized_nesterov", {"alpha": 0.2, "beta1": 0.0, "beta2": 0.5}, "beta1"),
    ("synthesized_nesterov", {"alpha": 0.2, "beta1": 1.0, "beta2": 0.5}, "beta1"),
    ("synthesized_nesterov", {"alpha": 0.2, "beta1": 0.5, "beta2": float("nan")}, "beta2|nu"),
    ("synthesized_nesterov", {"alpha": -0.2, "beta1": 0.5, "beta2": 0.5}, "alpha|lr"),
    ("robust_momentum", {"L": 0.0, "kappa": 50.0, "rho": 0.9}, "L"),
    ("robust_momentum", {"L": 2.0, "kappa": 1.0, "rho": 0.9}, "kappa"),
    ("robust_momentum", {"L": 2.0, "kappa": 50.0, "rho": 0.5}, "rho"),
    ("robust_momentum", {"L": 2.0, "kappa": 50.0, "rho": 0.99}, "rho"),
    ("triple_momentum", {"L": 2.0, "kappa": 0.5}, "kappa"),
    ("triple_momentum", {"L": float("inf"), "kappa": 50.0}, "L"),
    ("accsgd", {"delta": 0.0, "kappa": 30.0, "xi": 4.0}, "delta"),
    ("accsgd", {"delta": 0.1, "kappa": -30.0, "xi": 4.0}, "kappa"),
    ("accsgd", {"delta": 0.1, "kappa": 30.0, "xi": float("nan")}, "xi"),
    ("accsgd", {"delta": 0.1, "kappa": 30.0, "xi": 4.0, "eps": 0.0}, "eps"),
    ("accsgd", {"delta": 0.1, "kappa": 1.0, "xi": 4.0}, "kappa"),
]


@pytest.mark.parametrize(("name", "arguments", "named"), BAD_CONVERSIONS, ids=str)
def test_bad_conversion(name: str, arguments: dict[str, float], named: str) -> None:
    """Refused, by the name of the argument that the user gave."""
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=rf"Invalid \(?({named})"):
        getattr(QHM, f"from_{name}")([p], **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("momentum", {"lr": "0.1", "momentum": 0.9}), ("sgd", {"lr": None})],
    ids=str,
)
def test_conversion_of_no_number(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="lr"):
        getattr(QHM, f"from_{name}")([torch.nn.Parameter(torch.ones(2))], **arguments)


def test_groups_speak_the_method_s_language(rng: np.random.Generator) -> None:
    """lr and momentum of a parameter group are SGD's, as in the optimizer that QHM replaces."""
    problems = [{"lr": 0.01}, {}, {"momentum": 0.5, "weight_decay": 0.1}]
    values = [normal(rng, torch.empty(4)) for _ in problems]
    ours, theirs = ([torch.nn.Parameter(v.clone()) for v in values] for _ in range(2))
    qhm = QHM.from_nesterov(
        [{"params": p, **own} for p, own in zip(ours, problems, strict=True)], lr=0.1, momentum=0.9
    )
    sgd = torch.optim.SGD(
        [{"params": p, **own} for p, own in zip(theirs, problems, strict=True)],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    for _ in range(20):
        for mine, reference in zip(ours, theirs, strict=True):
            mine.grad = normal(rng, mine)
            reference.grad = mine.grad.clone()
        qhm.step()
        sgd.step()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["nu", "beta"])
def test_what_a_conversion_sets_cannot_be_given(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}.*from_nesterov sets it"):
        QHM.from_nesterov([torch.ones(2)], lr=0.1, momentum=0.9, **{name: 0.5})
