"""HD: its dot product is what it claims to be, and it passes for the optimizer in it."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracle import hypergradient as oracle
from support.cases import Site
from torch import Tensor, nn

from yfkernels import HD, QHM, QHAdam

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
BASES: dict[str, Callable[..., Any]] = {
    "SGD": lambda p, **o: SGD(p, lr=0.01, weight_decay=0.01, **o),
    "momentum": lambda p, **o: SGD(p, lr=0.01, momentum=0.9, dampening=0.1, weight_decay=0.01, **o),
    "Nesterov": lambda p, **o: SGD(p, lr=0.01, momentum=0.9, nesterov=True, **o),
    "Adam": lambda p, **o: Adam(p, lr=1e-3, weight_decay=0.01, **o),
    "AdamW": lambda p, **o: AdamW(p, lr=1e-3, weight_decay=0.1, **o),
    "AdamW-fused": lambda p, **o: AdamW(p, lr=1e-3, weight_decay=0.1, fused=True, **o),
    "QHM": lambda p, **o: QHM(p, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True, **o),
    "QHAdam": lambda p, **o: QHAdam(p, lr=1e-3, weight_decay=0.01, **o),
}
KEEPS = ("SGD", "Nesterov", "QHM", "QHAdam")  # one number a parameter
of_every_base = pytest.mark.parametrize("name", BASES)


class Run:
    """A regression: the model, the optimizer, and losses of minibatches."""

    def __init__(self, name: str, seed: int, dtype: torch.dtype, device: str, **options: Any):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(40, 16, 6, generator=generator).to(device, dtype)
        self.y = self.x.sum(2, keepdim=True).sin()
        self.model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1)).to(device, dtype)
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)
        maximize = options.pop("maximize", False)
        self.sign = -1.0 if maximize else 1.0
        given = {"maximize": True} if maximize else {}
        self.base = BASES[name](self.model.parameters(), **given)
        self.optimizer = HD(self.base, **options)

    def backward(self, t: int) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.sign * (self.model(self.x[t]) - self.y[t]).square().mean()
        loss.backward()
        return loss.detach()

    def steps(self, which: range) -> Iterator[Tensor]:
        for t in which:
            yield self.backward(t)
            self.optimizer.step()

    def vector(self, of_grads: bool = False) -> Tensor:
        tensors = [p.grad if of_grads else p.detach() for p in self.model.parameters()]
        return torch.cat([t.flatten().clone() for t in tensors if t is not None]).double()

    @property
    def lr(self) -> float:
        rate: float = self.optimizer.diagnostics()["lr"][0]
        return rate


@pytest.fixture
def seed(rng: Any) -> int:
    return int(rng.integers(2**31))


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("form", ["normalized", "multiplicative", "additive"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@of_every_base
def test_the_learning_rate_follows_gradient_times_last_move(
    name: str, dtype: torch.dtype, form: str, maximize: bool, site: Site, seed: int
) -> None:
    """The move itself, as it was, over the learning rate of it: B."""
    hyper_lr = 1e-4 if form == "additive" else 0.05
    given = {"form": form, "hyper_lr": hyper_lr, "backend": site.backend, "maximize": maximize}
    run = Run(name, seed, dtype, site.device, **given)
    own: Tensor | None = None
    normalized = oracle.Normalized(hyper_lr)
    steps = 3 if site.interpreted else 8
    for t in range(steps):
        run.backward(t)
        g, before, lr = run.vector(of_grads=True), run.vector(), run.lr
        run.optimizer.step()
        expected = lr
        if own is not None:
            dot = run.sign * float(g @ own)
            expected = {
                "normalized": lr * normalized.factor(run.sign * g, own),
                "multiplicative": lr * (1.0 - hyper_lr * dot / float(g.norm() * own.norm())),
                "additive": max(lr - hyper_lr * dot, 0.0),
            }[form]
        exact = dtype == torch.float64
        assert run.lr == pytest.approx(expected, rel=1e-9 if exact else 2e-5)
        own = (run.vector() - before) / run.lr


@of_every_base
def test_what_it_keeps(name: str, seed: int) -> None:
    run = Run(name, seed, torch.float32, "cpu")
    list(run.steps(range(3)))
    for state in run.base.state.values():
        assert ("lr_derivative" in state) == (name in KEEPS)


@of_every_base
def test_resumes_bit_for_bit(name: str, seed: int) -> None:
    run = Run(name, seed, torch.float32, "cpu")
    list(run.steps(range(5)))
    saved = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
    expected = list(run.steps(range(5, 10)))
    other = Run(name, seed + 1, torch.float32, "cpu")
    other.x, other.y = run.x, run.y
    other.model.load_state_dict(saved[0])
    other.optimizer.load_state_dict(saved[1])
    assert list(other.steps(range(5, 10))) == expected
    assert other.lr == run.lr


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_goes_on_alike(way: str, seed: int) -> None:
    run = Run("Adam", seed, torch.float32, "cpu")
    list(run.steps(range(3)))
    if way == "deepcopy":
        model, optimizer = copy.deepcopy((run.model, run.optimizer))
    else:
        model, optimizer = pickle.loads(pickle.dumps((run.model, run.optimizer)))
    expected = list(run.steps(range(3, 6)))
    run.model, run.optimizer = model, optimizer
    assert list(run.steps(range(3, 6))) == expected


def test_a_schedule_is_a_factor(seed: int) -> None:
    """Also one that works the learning rate out from the first one."""
    run = Run("Adam", seed, torch.float32, "cpu")
    schedule = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda t: 0.5**t)
    for t in range(5):
        before = run.lr
        list(run.steps(range(t, t + 1)))
        tuned = run.lr
        assert abs(math.log(tuned / before)) <= 3.0
        schedule.step()
        assert run.lr == pytest.approx(0.5 * tuned)
        assert run.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5 ** (t + 1))


def test_the_tuned_rate_is_the_one_in_use(seed: int) -> None:
    """Under a schedule too: SGD moves by it times the gradient."""
    generator = torch.Generator().manual_seed(seed)
    w = nn.Parameter(torch.randn(7, generator=generator, dtype=torch.float64))
    optimizer = HD(SGD([w], lr=0.1))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    for _ in range(6):
        optimizer.zero_grad()
        (0.5 * w.square()).sum().backward()
        before = w.detach().clone()
        optimizer.step()
        rate = optimizer.diagnostics()["lr"][0]
        torch.testing.assert_close(w.detach(), (1.0 - rate) * before)
        schedule.step()


@pytest.mark.parametrize("poison", [math.inf, math.nan])
@of_every_base
def test_a_gradient_that_is_not_finite_changes_nothing(name: str, poison: float, seed: int) -> None:
    run = Run(name, seed, torch.float32, "cpu")
    list(run.steps(range(3)))
    before = copy.deepcopy((run.vector(), run.optimizer.state_dict(), run.lr))
    run.backward(3)
    next(run.model.parameters()).grad[0, 0] = poison  # type: ignore[index]
    run.optimizer.step()
    after = (run.vector(), run.optimizer.state_dict(), run.lr)
    counts = [each[1]["param_groups"][0].pop("skipped_steps") for each in (before, after)]
    assert counts == [0, 1]
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    assert run.optimizer.diagnostics()["skipped_steps"] == 1


def test_under_a_gradient_scaler(seed: int) -> None:
    plain, scaled = (Run("AdamW", seed, torch.float32, "cpu") for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(5):
        list(plain.steps(range(t, t + 1)))
        scaled.optimizer.zero_grad()
        loss = (scaled.model(scaled.x[t]) - scaled.y[t]).square().mean()
        scaler.scale(loss).backward()
        scaler.step(scaled.optimizer)
        scaler.update()
    torch.testing.assert_close(scaled.vector(), plain.vector())
    assert scaled.lr == pytest.approx(plain.lr, rel=1e-4)


def test_parameters_without_gradients_and_late_groups(seed: int) -> None:
    run = Run("AdamW", seed, torch.float32, "cpu")
    list(run.steps(range(2)))
    late = nn.Parameter(torch.ones(3))
    run.optimizer.add_param_group({"params": [late], "lr": 0.1})
    for t in range(2, 5):
        run.backward(t)
        late.grad = torch.ones(3) if t > 2 else None
        run.optimizer.step()
    first, second = run.optimizer.diagnostics()["lr"]
    assert run.base.param_groups is run.optimizer.param_groups
    assert second > 0.1  # its gradient never changes
    assert torch.all(late < 1.0)
    assert first != 1e-3


def test_reading_changes_nothing(seed: int) -> None:
    """Also between a schedule and the step that it is for."""
    runs = [Run("AdamW", seed, torch.float32, "cpu") for _ in range(2)]
    for run, reads in zip(runs, (False, True)):
        schedule = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.5)
        for t in range(4):
            list(run.steps(range(t, t + 1)))
            schedule.step()
            if reads:
                run.optimizer.diagnostics()
    assert torch.equal(runs[0].vector(), runs[1].vector())
    assert runs[0].lr == runs[1].lr


def test_a_state_that_is_replaced_is_the_bases(seed: int) -> None:
    run = Run("AdamW", seed, torch.float32, "cpu")
    list(run.steps(range(2)))
    run.optimizer.state = type(run.base.state)(dict)
    assert not run.base.state
    list(run.steps(range(2, 4)))
    assert all(int(state["step"]) == 2 for state in run.base.state.values())


def test_a_closure(seed: int) -> None:
    run, plain = (Run("SGD", seed, torch.float32, "cpu") for _ in range(2))
    expected = list(plain.steps(range(4)))
    losses = [run.optimizer.step(lambda t=t: run.backward(t)) for t in range(4)]
    assert losses == expected


def test_the_base_alone_is_refused(seed: int) -> None:
    run = Run("SGD", seed, torch.float32, "cpu")
    run.backward(0)
    with pytest.raises(RuntimeError, match=r"SGD\.step\(\) was called while HD tunes"):
        run.base.step()
    base = run.base
    run.optimizer = run.base = None
    base.step()  # nobody tunes it any more


def test_bad_options_are_named() -> None:
    params = [nn.Parameter(torch.ones(2))]
    with pytest.raises(TypeError, match=r"RMSprop; HD wraps an optimizer and knows how"):
        HD(torch.optim.RMSprop(params))
    with pytest.raises(TypeError, match=r"Invalid base type: builtins\.list"):
        HD(params)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Invalid form value: 'fast'; it must be one of"):
        HD(SGD(params, lr=0.1), form="fast")
    with pytest.raises(ValueError, match=r"Invalid hyper_lr value: -1\.0"):
        HD(SGD(params, lr=0.1), hyper_lr=-1.0)
    with pytest.raises(ValueError, match=r"Invalid hyper_lr value: 1\.5; it must be below 1"):
        HD(SGD(params, lr=0.1), form="multiplicative", hyper_lr=1.5)
    with pytest.raises(ValueError, match="Invalid amsgrad value: True"):
        HD(Adam(params, amsgrad=True))
    with pytest.raises(ValueError, match=r"Invalid max_norm value: 1\.0"):
        HD(QHM(params, max_norm=1.0))


def test_without_gradients_nothing_happens(seed: int) -> None:
    run = Run("momentum", seed, torch.float32, "cpu")
    before = run.vector()
    run.optimizer.step()
    assert torch.equal(run.vector(), before)
    expected = {"lr": [run.base.param_groups[0]["lr"]], "hyper_lr": [0.3], "skipped_steps": 0}
    assert run.optimizer.diagnostics() == expected


def test_groups_that_are_replaced_are_the_bases(seed: int) -> None:
    run = Run("SGD", seed, torch.float32, "cpu")
    groups = [dict(group) for group in run.base.param_groups]
    run.optimizer.param_groups = groups
    assert run.base.param_groups is groups


@pytest.mark.parametrize("name", ["Adam", "momentum"])
def test_the_papers_step_sizes(name: str, seed: int) -> None:
    """1e-8 for Adam, 1e-6 for the others."""
    lrs = []
    for hyper_lr in (None, 1e-8 if name == "Adam" else 1e-6):
        run = Run(name, seed, torch.float64, "cpu", form="additive", hyper_lr=hyper_lr)
        list(run.steps(range(4)))
        lrs.append(run.lr)
    assert lrs[0] == lrs[1] != run.base.param_groups[0]["lr"]


def test_options_that_are_set_are_checked(seed: int) -> None:
    optimizer = Run("Adam", seed, torch.float32, "cpu", form="multiplicative").optimizer
    for wrong, need in ((-1.0, "finite and > 0"), (1.5, "below 1")):
        with pytest.raises(ValueError, match=f"Invalid hyper_lr value: {wrong}; it must be {need}"):
            optimizer.hyper_lr = wrong
    assert optimizer.diagnostics()["hyper_lr"] == [0.02]
    optimizer.hyper_lr = 0.5
    assert optimizer.diagnostics()["hyper_lr"] == [0.5]
    with pytest.raises(AttributeError):
        optimizer.form = "additive"  # type: ignore[misc]


def unstable_course(seed: int) -> list[float]:
    """Losses of plain SGD on the whole data set, where the learning rate would grow too far."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 6, generator=generator)
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = HD(SGD(model.parameters(), lr=0.01))
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_brake_keeps_training_stable() -> None:
    """In most of ten trainings; without it all of them explode."""
    courses = [unstable_course(seed) for seed in range(10)]
    assert sum(max(losses) < 10 * losses[0] for losses in courses) >= 8
    assert sum(losses[-1] < 0.2 * losses[0] for losses in courses) >= 8


def test_an_option_set_later_is_checked(seed: int) -> None:
    run = Run("Adam", seed, torch.float32, "cpu")
    list(run.steps(range(2)))
    run.base.param_groups[0]["amsgrad"] = True
    run.backward(2)
    before = run.vector()
    with pytest.raises(ValueError, match="Invalid amsgrad value: True"):
        run.optimizer.step()
    assert torch.equal(run.vector(), before)


def test_sparse_and_complex_are_refused() -> None:
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = HD(SGD(embedding.parameters(), lr=0.1))
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradients are not supported: parameter 0"):
        optimizer.step()
    p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = HD(SGD([p], lr=0.1))
    p.abs().sum().backward()
    with pytest.raises(RuntimeError, match=r"of shape \(2,\) is torch\.complex64"):
        optimizer.step()
    assert torch.equal(p, torch.ones_like(p))


def test_the_newer_of_two_tuners_counts(seed: int) -> None:
    run = Run("SGD", seed, torch.float32, "cpu")
    newer = HD(run.base)
    run.backward(0)
    with pytest.raises(RuntimeError, match="Another tuner was made over this SGD after this HD"):
        run.optimizer.step()
    before = run.vector()
    newer.step()
    assert not torch.equal(run.vector(), before)
    with pytest.raises(RuntimeError, match=r"SGD\.step\(\) was called while HD tunes"):
        run.base.step()


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="Invalid backend value: 'cuda'; choose from auto"):
        HD(SGD([nn.Parameter(torch.ones(2))], lr=0.1), backend="cuda")
