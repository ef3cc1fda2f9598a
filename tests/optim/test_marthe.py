"""MARTHE: its hypergradient is the derivative that it claims to be, over every base."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from oracle import hypergradient as oracle
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from yfkernels import MARTHE, QHM, RTHO, QHAdam

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
# Each beside the step that the oracle takes.
BASES: dict[str, tuple[Callable[..., Any], dict[str, Any], oracle.Step, int]] = {
    "SGD": (SGD, {"weight_decay": 0.01}, oracle.sgd(decay=0.01), 0),
    "momentum": (SGD, {"momentum": 0.9}, oracle.sgd(momentum=0.9), 1),
    "dampening": (
        *(SGD, {"momentum": 0.9, "dampening": 0.3}),
        *(oracle.sgd(momentum=0.9, dampening=0.3), 1),
    ),
    "Nesterov": (
        *(SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        *(oracle.sgd(momentum=0.9, nesterov=True, decay=0.01), 1),
    ),
    "Adam": (Adam, {"weight_decay": 0.01}, oracle.adam(decay=0.01), 2),
    "AdamW": (AdamW, {"weight_decay": 0.1}, oracle.adam(decay=0.1, decoupled=True), 2),
    "AdamW-for-loop": (
        *(AdamW, {"weight_decay": 0.1, "foreach": False}),
        *(oracle.adam(decay=0.1, decoupled=True), 2),
    ),
    "AdamW-fused": (
        *(AdamW, {"weight_decay": 0.1, "fused": True}),
        *(oracle.adam(decay=0.1, decoupled=True), 2),
    ),
    "QHM": (
        *(QHM, {"nu": 0.7, "beta": 0.9, "weight_decay": 0.1, "decoupled_weight_decay": True}),
        *(oracle.qhm(0.7, 0.9, 0.1), 1),
    ),
    "QHAdam": (
        *(QHAdam, {"nus": (0.7, 0.9), "betas": (0.9, 0.99), "weight_decay": 0.01}),
        *(oracle.adam(betas=(0.9, 0.99), nus=(0.7, 0.9), decay=0.01), 2),
    ),
}
of_every_base = pytest.mark.parametrize("name", BASES)


def rate_of(name: str) -> float:
    return 0.005 if "Adam" in name else 0.02


class Task:
    """A small classification, other numbers in every run."""

    def __init__(self, make: Callable[[], nn.Module], steps: int, seed: int) -> None:
        self.make, self.seed = make, seed
        generator = torch.Generator().manual_seed(seed)
        options = {"generator": generator, "dtype": torch.float64}
        self.x = torch.randn(steps, 16, 6, **options)  # type: ignore[call-overload]
        self.y = torch.randint(3, (steps, 16), generator=generator)
        self.x_val = torch.randn(64, 6, **options)  # type: ignore[call-overload]
        self.y_val = torch.randint(3, (64,), generator=generator)

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.make().double()

    def training(self, model: Any, t: int) -> Tensor:
        return cross_entropy(model(self.x[t]), self.y[t])

    def validation(self, model: Any) -> Tensor:
        return cross_entropy(model(self.x_val), self.y_val)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def conv() -> nn.Module:
    """Smooth, as a central difference wants it; no running statistics, which are no part of Z."""
    layers = [nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3), nn.GroupNorm(1, 3), nn.Softplus()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3))


@pytest.fixture
def seed(rng: Any) -> int:
    return int(rng.integers(2**31))


@pytest.mark.parametrize("make", [mlp, conv])
@of_every_base
def test_the_hypergradient_is_a_central_difference(
    name: str, make: Callable[[], nn.Module], seed: int
) -> None:
    """With lr frozen and mu = 1, of the validation loss after some steps to lr."""
    steps = 12
    optimizer, options, _, _ = BASES[name]
    task, lr = Task(make, steps, seed), rate_of(name)

    def loss_after(lr: float) -> float:
        model = task.model()
        base = optimizer(model.parameters(), lr=lr, **options)
        for t in range(steps):
            base.zero_grad()
            task.training(model, t).backward()
            base.step()
        return float(task.validation(model).detach())

    model = task.model()
    tuner = RTHO(optimizer(model.parameters(), lr=lr, **options), hyper_lr=0.0, clip=1e9)
    for t in range(steps):
        last = t == steps - 1
        tuner.step(
            lambda t=t: task.training(model, t), (lambda: task.validation(model)) if last else None
        )
    h = 1e-3 * lr
    near, far = (loss_after(lr + k * h) - loss_after(lr - k * h) for k in (1, 2))
    expected = (8.0 * near - far) / (12.0 * h)
    (delta,) = tuner.diagnostics()["hypergradient"]
    assert delta == pytest.approx(expected, rel=1e-8, abs=1e-8)
    assert tuner.diagnostics()["lr"] == [lr]


def run_beside_the_oracle(
    name: str, mu: float | None, seed: int, alpha: float | None = None, steps: int = 200
) -> None:
    optimizer, options, step, slots = BASES[name]
    task = Task(mlp, steps, seed)
    model = task.model()
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def network(w: Tensor) -> Callable[[Tensor], Tensor]:
        parts = {k: v.view(p.shape) for v, (k, p) in zip(w.split(sizes), named.items())}
        return lambda x: torch.func.functional_call(model, parts, (x,))

    w = torch.cat([p.detach().flatten() for p in named.values()])
    hyper_lr = rate_of(name) * 1e-3
    twin = oracle.Tuner(
        *(step, slots, w, rate_of(name), mu or 0.0, hyper_lr),
        alpha=alpha or 0.0,
        adapts=mu is None,
    )
    base = optimizer(model.parameters(), lr=rate_of(name), **options)
    tuner = MARTHE(base, mu=mu, hyper_lr=hyper_lr, alpha=alpha)
    for t in range(steps):
        twin.advance(
            lambda w, t=t: task.training(network(w), t), lambda w: task.validation(network(w))
        )
        tuner.step(lambda t=t: task.training(model, t), lambda: task.validation(model))
        seen = tuner.diagnostics()
        assert seen["hypergradient"][0] == pytest.approx(twin.delta, rel=1e-9, abs=1e-9)
        assert seen["lr"][0] == pytest.approx(twin.lr, rel=1e-9)
        assert seen["mu"][0] == pytest.approx(twin.mu, rel=1e-7, abs=1e-7)
        assert seen["hyper_lr"][0] == pytest.approx(twin.beta, rel=1e-9)
    now = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(now, twin.w, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mu", [0.0, 0.9, 0.99, 1.0, None])
@pytest.mark.parametrize("name", ["Nesterov", "AdamW"])
def test_two_hundred_steps_follow_the_oracle(name: str, mu: float | None, seed: int) -> None:
    run_beside_the_oracle(name, mu, seed)


@pytest.mark.parametrize("name", [name for name in BASES if name not in ("Nesterov", "AdamW")])
def test_follows_the_oracle_with_a_hyper_lr_that_adapts(name: str, seed: int) -> None:
    run_beside_the_oracle(name, 0.9, seed, alpha=1e-6, steps=60)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW", "QHM", "QHAdam"])
def test_half_parameters(name: str, dtype: torch.dtype, seed: int) -> None:
    """Z is in float32, and the hypergradient errs by some roundings of the parameters."""
    if (name, dtype) == ("AdamW", torch.float16):
        pytest.skip("torch's own AdamW divides by 0 there: its eps of 1e-8 is 0 in float16")
    optimizer, options, _, _ = BASES[name]
    found = []
    for kind in (dtype, torch.float32):
        torch.manual_seed(seed)
        model = mlp().to(kind)
        x = torch.randn(32, 6).to(kind)
        loss = partial(lambda model, x: model(x).square().mean(), model, x)
        tuner = MARTHE(optimizer(model.parameters(), lr=rate_of(name), **options), mu=0.9)
        for _ in range(5):
            tuner.step(loss, loss)
        found.append(tuner.diagnostics()["hypergradient"][0])
        assert {z.dtype for z in tuner.state_dict()["tangents"][0]} == {torch.float32}
    assert found[0] == pytest.approx(found[1], rel=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_the_normalized_form(mu: float, seed: int) -> None:
    """Plain SGD on a quadratic, whose Z is known: Z <- mu (1 - lr H) Z - g."""
    generator = torch.Generator().manual_seed(seed)
    curvature = torch.rand(5, generator=generator, dtype=torch.float64) + 0.1
    w = nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64))
    wanted = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    tuner = MARTHE(torch.optim.SGD([w], lr=0.1), mu=mu)
    at, z, lr = w.detach().clone(), torch.zeros(5, dtype=torch.float64), 0.1
    form = oracle.Normalized(0.3)
    for goal in wanted:
        tuner.step(
            lambda: 0.5 * (curvature * w * w).sum(),
            lambda goal=goal: 0.5 * (w - goal).square().sum(),  # type: ignore[misc]
        )
        z = mu * (1.0 - lr * curvature) * z - curvature * at
        at = at - lr * curvature * at
        lr *= form.factor(at - goal, z)
        torch.testing.assert_close(w.detach(), at)
        assert tuner.diagnostics()["lr"] == [pytest.approx(lr, rel=1e-12)]


@of_every_base
def test_resumes_bit_for_bit(name: str, seed: int) -> None:
    optimizer, options, _, _ = BASES[name]
    task = Task(mlp, 10, seed)

    def build() -> tuple[nn.Module, MARTHE]:
        model = task.model()
        return model, MARTHE(optimizer(model.parameters(), lr=rate_of(name), **options))

    def train(model: nn.Module, tuner: MARTHE, steps: range) -> list[Tensor]:
        return [
            tuner.step(lambda t=t: task.training(model, t), lambda: task.validation(model))
            for t in steps
        ]

    model, tuner = build()
    train(model, tuner, range(5))
    saved = copy.deepcopy((model.state_dict(), tuner.state_dict()))
    expected = train(model, tuner, range(5, 10))
    again, other = build()
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    assert train(again, other, range(5, 10)) == expected
    assert other.diagnostics() == tuner.diagnostics()
    for p, q in zip(model.parameters(), again.parameters()):
        assert torch.equal(p, q)


@pytest.mark.parametrize("hvp", ["jvp", "central", "forward"])
def test_resumes_with_every_method(hvp: str, seed: int) -> None:
    """A resumed tuner has not seen yet which modules there are."""
    task = Task(mlp, 4, seed)
    losses = []
    model, saved = task.model(), None
    for steps in (range(2), range(2, 4)):
        tuner = MARTHE(torch.optim.SGD(model.parameters(), lr=0.02), mu=0.9, hvp=hvp)
        if saved is not None:
            tuner.load_state_dict(saved)
        for t in steps:
            loss = tuner.step(lambda t=t: task.training(model, t), lambda: task.validation(model))
            losses.append(loss)
        saved = copy.deepcopy(tuner.state_dict())
    whole = task.model()
    tuner = MARTHE(torch.optim.SGD(whole.parameters(), lr=0.02), mu=0.9, hvp=hvp)
    for t in range(4):
        loss = tuner.step(lambda t=t: task.training(whole, t), lambda: task.validation(whole))
        assert loss == losses[t]


def test_statistics_of_a_batch_norm_are_those_of_the_training(seed: int) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    task = Task(net, 6, seed)
    model, plain = task.model(), task.model()
    tuner = MARTHE(torch.optim.SGD(model.parameters(), lr=0.1), hyper_lr=0.0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for t in range(6):
        tuner.step(lambda t=t: task.training(model, t), lambda: task.validation(model))
        optimizer.zero_grad()
        task.training(plain, t).backward()
        optimizer.step()
    for (name, a), b in zip(model.state_dict().items(), plain.state_dict().values()):
        assert torch.equal(a, b) if "running" in name else torch.allclose(a, b, rtol=1e-12), name
    assert all(module.training for module in model.modules())


def test_a_gradient_that_is_not_finite_changes_nothing(seed: int) -> None:
    task = Task(mlp, 4, seed)
    model = task.model()
    tuner = MARTHE(torch.optim.Adam(model.parameters(), lr=0.01))
    for t in range(3):
        tuner.step(lambda t=t: task.training(model, t), lambda: task.validation(model))
    before = copy.deepcopy((model.state_dict(), tuner.state_dict()))
    tuner.step(lambda: task.training(model, 3) * float("nan"), lambda: task.validation(model))
    after = tuner.state_dict()
    assert after.pop("skipped") == before[1].pop("skipped") + 1
    torch.testing.assert_close(
        (dict(model.state_dict()), after), (dict(before[0]), before[1]), rtol=0, atol=0
    )


def test_a_validation_loss_that_is_not_finite_leaves_the_learning_rate(seed: int) -> None:
    task = Task(mlp, 2, seed)
    model = task.model()
    tuner = MARTHE(torch.optim.Adam(model.parameters(), lr=0.01))
    tuner.step(lambda: task.training(model, 0), lambda: task.validation(model))
    before = tuner.diagnostics()
    with pytest.warns(UserWarning, match="The validation loss is inf; has it diverged"):
        tuner.step(lambda: task.training(model, 1), lambda: task.validation(model) * float("inf"))
    after = tuner.diagnostics()
    assert after["lr"] == before["lr"]
    assert after["skipped_steps"] == 1


def test_the_base_alone_is_refused() -> None:
    model = mlp()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = MARTHE(base)
    with pytest.raises(RuntimeError, match=r"SGD\.step\(\) was called while MARTHE tunes"):
        base.step()
    twin = copy.deepcopy(tuner)
    with pytest.raises(RuntimeError, match=r"SGD\.step\(\) was called while MARTHE tunes"):
        twin.base.step()
    del tuner
    base.step()  # nobody tunes it any more


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": 1.5}, r"Invalid mu value: 1\.5; it must be in \[0, 1\]"),
        ({"hyper_lr": -1.0}, r"Invalid hyper_lr value: -1\.0; it must be finite and >= 0"),
        ({"alpha": float("nan")}, r"Invalid alpha value: nan"),
        ({"clip": 0.0}, r"Invalid clip value: 0\.0; it must be finite and > 0"),
        ({"validate_every": 0}, r"Invalid validate_every value: 0; it must be a whole number"),
        ({"hvp": "exact"}, r"Invalid hvp value: 'exact'; it must be one of auto, reverse"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MARTHE(torch.optim.SGD(mlp().parameters(), lr=0.1), **options)


def test_a_base_without_a_closed_form_is_named() -> None:
    with pytest.raises(TypeError, match=r"RMSprop; MARTHE wraps .* torch\.optim\.Adam"):
        MARTHE(torch.optim.RMSprop(mlp().parameters()))
    with pytest.raises(ValueError, match="Invalid amsgrad value: True"):
        MARTHE(torch.optim.Adam(mlp().parameters(), amsgrad=True))


def test_an_empty_validation_set_is_said(seed: int) -> None:
    torch.manual_seed(seed)
    model = mlp().double()
    tuner = MARTHE(torch.optim.SGD(model.parameters(), lr=0.1))
    x = torch.randn(4, 6, dtype=torch.float64)
    with pytest.warns(UserWarning, match="The validation loss is nan; .* minibatch empty"):
        tuner.step(lambda: model(x).square().mean(), lambda: model(x[:0]).square().mean())
    assert tuner.diagnostics()["lr"] == [0.1]
    assert tuner.diagnostics()["skipped_steps"] == 1


def test_a_parameter_of_another_shape_is_named() -> None:
    w = nn.Parameter(torch.ones(3))
    tuner = MARTHE(torch.optim.SGD([w], lr=0.1))
    tuner.step(lambda: w.square().sum(), lambda: w.square().sum())
    before = tuner.diagnostics()
    w.data = torch.ones(4)
    with pytest.raises(RuntimeError, match=r"of shape \(3,\) and is now of \(4,\); make a new"):
        tuner.step(lambda: w.square().sum(), lambda: w.square().sum())
    assert tuner.diagnostics() == before
    assert torch.equal(w, torch.ones(4))


@pytest.mark.parametrize("wrong", ["training", "validation"])
def test_a_closure_that_returns_no_loss_changes_nothing(wrong: str) -> None:
    model = mlp()
    tuner = MARTHE(torch.optim.SGD(model.parameters(), lr=0.1))
    x = torch.ones(2, 6)
    good = {"training": lambda: model(x).sum(), "validation": lambda: model(x).sum()}
    with pytest.raises(TypeError, match="Invalid closure type: Tensor"):
        tuner.step(*{**good, wrong: model(x).sum()}.values())  # type: ignore[arg-type]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="Invalid closure result: a tensor of shape"):
        tuner.step(*{**good, "training": lambda: model(x)}.values())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
