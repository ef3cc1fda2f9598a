"""find_hyper_lr: finds a step size that holds, and leaves no trace."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

from yfkernels import HD, MARTHE, RTHO, find_hyper_lr
from yfkernels.optim._tuned_lr import begin_step, learn

TUNERS: dict[str, Callable[..., Any]] = {
    "HD": lambda base: HD(base, form="additive"),
    "HD-normalized": HD,
    "MARTHE": MARTHE,
    "MARTHE-additive": lambda base: MARTHE(base, form="additive"),
    "RTHO": RTHO,
}


class Training:
    """A net with BatchNorm and dropout on shuffled data with noise of Python's and NumPy's."""

    def __init__(self, name: str, seed: int) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is meant
        layers = (nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.2))
        self.model = nn.Sequential(*layers, nn.Linear(12, 1))
        x = torch.randn(64, 6)
        data = TensorDataset(x, x.sum(1, keepdim=True).sin())
        self.generator = torch.Generator().manual_seed(seed)
        self.loader = DataLoader(data, 16, shuffle=True, generator=self.generator)
        base = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.tuner = TUNERS[name](base)
        self.schedule = ExponentialLR(base, 0.99)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        noise = random.random() + np.random.random()  # noqa: NPY002
        return (self.model(x) - y).square().mean() * (1.0 + 0.01 * noise)

    def epochs(self, count: int) -> Iterator[Tensor]:
        for _ in range(count):
            for x, y in self.loader:
                if isinstance(self.tuner, HD):
                    self.tuner.zero_grad()
                    loss = self.loss(x, y)
                    loss.backward()
                    self.tuner.step()
                else:
                    closure = partial(self.loss, x, y)
                    loss = self.tuner.step(closure, closure)
                yield loss.detach()
            self.schedule.step()

    def search(self, **options: Any) -> float:
        others = (self.generator, self.schedule)
        return find_hyper_lr(
            self.tuner, lambda: self.epochs(3), model=self.model, others=others, **options
        )


@pytest.fixture
def seed(rng: Any) -> int:
    return int(rng.integers(2**31))


@pytest.mark.parametrize("before", [0, 2], ids=["new", "under way"])
@pytest.mark.parametrize("name", TUNERS)
def test_the_training_goes_on_as_if_there_had_been_no_search(
    name: str, before: int, seed: int
) -> None:
    losses, values = [], [None, None]
    for searched in (False, True):
        training = Training(name, seed)
        list(training.epochs(before))
        if searched:
            values[1] = training.search(first=1e-7)
            assert values[1] == 1e-7
        else:
            training.tuner.hyper_lr = 1e-7
        losses.append(torch.stack(list(training.epochs(3))))
    assert torch.equal(*losses)


def test_the_value_is_the_first_that_holds(seed: int) -> None:
    training = Training("MARTHE", seed)
    value = training.search(first=1e6)
    assert 0 < value < 1e6
    assert training.tuner.hyper_lr == value

    def holds(hyper_lr: float) -> bool:
        fresh = Training("MARTHE", seed)
        fresh.tuner.hyper_lr = hyper_lr
        losses = torch.stack(list(fresh.epochs(3)))
        finite = bool(losses.isfinite().all() and losses.max() <= 10 * losses[0])
        return finite and fresh.tuner.diagnostics()["lr"][0] > 0

    assert holds(value)
    assert not holds(10 * value)


def test_alpha_of_marthe(seed: int) -> None:
    training = Training("MARTHE-additive", seed)
    value = training.search(option="alpha", first=1e12, trials=30)
    assert training.tuner.alpha == value
    assert training.tuner.hyper_lr is None
    assert value < 1e12


@pytest.mark.parametrize("name", TUNERS)
def test_the_form_stays(name: str, seed: int) -> None:
    training = Training(name, seed)
    before = training.tuner.form
    training.search(first=1e-7)
    assert training.tuner.form == before
    assert training.tuner.hyper_lr == 1e-7


def test_the_normalized_form_has_no_alpha(seed: int) -> None:
    training = Training("MARTHE", seed)
    with pytest.raises(ValueError, match=r"Invalid alpha value: .* give form='additive'"):
        training.search(option="alpha")
    assert training.tuner.alpha is None


def test_groups_and_tensors_are_those_that_the_user_holds() -> None:
    w, lr = nn.Parameter(torch.ones(3)), torch.tensor(0.1)
    base = torch.optim.SGD([w], lr=lr)
    tuner = HD(base)
    groups, group = base.param_groups, base.param_groups[0]

    def trial() -> Iterator[Tensor]:
        for _ in range(3):
            lr.mul_(0.5)
            group["weight_decay"] = 0.3
            w.grad = 2.0 * w.detach()
            tuner.step()
            yield w.square().sum()

    find_hyper_lr(tuner, trial, model=nn.ParameterList([w]))
    assert base.param_groups is groups
    assert groups[0] is group
    assert group["lr"] is lr
    assert lr == torch.tensor(0.1)
    assert group["weight_decay"] == 0.0
    assert "tuned_lr" not in group


class TakenOnce(torch.autograd.Function):
    """A square whose derivative has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2.0 * ctx.saved_tensors[0] * grad


@pytest.mark.filterwarnings("ignore:The loss cannot be differentiated twice")
def test_how_the_hessian_is_multiplied_is_put_back() -> None:
    """And it is part of the state: a resumed run takes the same products."""
    w = nn.Parameter(torch.ones(3))
    tuner = MARTHE(torch.optim.SGD([w], lr=0.01), mu=0.9)

    def trial() -> Iterator[Tensor]:
        for _ in range(3):
            yield tuner.step(lambda: TakenOnce.apply(w).sum(), lambda: w.square().sum())

    find_hyper_lr(tuner, trial, model=nn.ParameterList([w]))
    assert not tuner.state_dict()["fell_back"]
    list(trial())
    saved = copy.deepcopy(tuner.state_dict())
    assert saved["fell_back"]
    resumed = MARTHE(torch.optim.SGD([w], lr=0.01), mu=0.9)
    resumed.load_state_dict(saved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.step(lambda: TakenOnce.apply(w).sum())


@pytest.mark.parametrize("name", TUNERS)
def test_an_error_of_the_trial_leaves_no_trace(name: str, seed: int) -> None:
    training = Training(name, seed)
    list(training.epochs(1))
    model = copy.deepcopy(training.model.state_dict())
    hyper_lr, state = training.tuner.hyper_lr, copy.deepcopy(training.tuner.state_dict())
    grads = [p.grad.clone() for p in training.model.parameters() if p.grad is not None]

    def trial() -> Iterator[Tensor]:
        yield from training.epochs(1)
        training.model.eval()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_hyper_lr(training.tuner, trial, model=training.model)
    assert training.tuner.hyper_lr == hyper_lr
    assert all(module.training for module in training.model.modules())
    torch.testing.assert_close(training.model.state_dict(), model, rtol=0, atol=0)
    torch.testing.assert_close(
        [p.grad for p in training.model.parameters() if p.grad is not None], grads, rtol=0, atol=0
    )
    assert repr(training.tuner.state_dict()) == repr(state)


def test_bad_arguments_are_named(seed: int) -> None:
    training = Training("HD", seed)
    with pytest.raises(TypeError, match="Invalid tuner type: SGD; give HD, MARTHE or RTHO"):
        find_hyper_lr(training.tuner.base, lambda: [], model=training.model)
    with pytest.raises(ValueError, match="Invalid option value: 'alpha'; it must be one of hyper"):
        training.search(option="alpha")
    with pytest.raises(ValueError, match=r"Invalid factor value: 1\.0; it must be above 1"):
        training.search(factor=1.0)
    with pytest.raises(ValueError, match="Invalid trials value: 0"):
        training.search(trials=0)
    with pytest.raises(ValueError, match="Invalid first value: -1; it must be finite and > 0"):
        training.search(first=-1)
    with pytest.raises(TypeError, match="Invalid trial type: generator; give the function"):
        find_hyper_lr(training.tuner, training.epochs(1), model=training.model)
    with pytest.raises(TypeError, match="Invalid result of trial: NoneType; let it yield"):
        find_hyper_lr(training.tuner, lambda: None, model=training.model)
    with pytest.raises(TypeError, match="Invalid type in others: DataLoader; give generators"):
        find_hyper_lr(training.tuner, lambda: [], model=training.model, others=[training.loader])
    with pytest.raises(ValueError, match=r"Invalid model value: 'Linear'; .* 6 of 6 are not in it"):
        find_hyper_lr(training.tuner, lambda: [], model=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="Invalid trial value: 'no loss'"):
        find_hyper_lr(training.tuner, lambda: [], model=training.model)
    infinite = torch.tensor(float("inf"))
    with pytest.raises(RuntimeError, match=r"diverged with every hyper_lr from 1 down to 0\.01"):
        find_hyper_lr(training.tuner, lambda: [infinite], model=training.model, trials=3)


def test_buffers_are_put_back_at_their_places(seed: int) -> None:
    """One that a trial replaces, and one that was None."""
    training = Training("HD", seed)
    model = training.model
    model.register_buffer("count", torch.zeros(1))
    model.register_buffer("cache", None)
    count = model.count

    def trial() -> Iterator[Tensor]:
        for loss in training.epochs(1):
            model.count = model.count + 1
            model.cache = loss
            yield loss

    find_hyper_lr(training.tuner, trial, model=model, first=1e-6)
    assert model.count is count
    assert count.item() == 0
    assert model.cache is None


def test_what_counts_as_divergence(seed: int) -> None:
    """A loss of more than ten times the first."""
    training = Training("HD", seed)
    worst = {1.0: 10.5, 0.1: 9.5}

    def trial() -> list[float]:
        return [1.0, worst[training.tuner.hyper_lr], 1.0]

    assert find_hyper_lr(training.tuner, trial, model=training.model) == 0.1


@pytest.mark.parametrize("scheduled", [0.0, 1.0])
def test_a_learning_rate_that_is_tuned_to_zero_does_not_hold(scheduled: float, seed: int) -> None:
    """A schedule may end there."""
    training = Training("HD", seed)

    def trial() -> Iterator[float]:
        lr = 0.0 if training.tuner.hyper_lr > 0.05 else 0.1
        for group in training.tuner.param_groups:
            begin_step(group)
            learn(group, lr)
            group["lr"] *= scheduled
            begin_step(group)
        yield 1.0

    assert find_hyper_lr(training.tuner, trial, model=training.model) == pytest.approx(0.01)
