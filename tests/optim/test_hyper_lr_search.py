"""find_hyper_lr: finds a step size that holds, and leaves no trace."""

from __future__ import annotations

import copy
import random
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

TUNERS: dict[str, Callable[..., Any]] = {
    "HD": lambda base: HD(base, form="additive"),
    "HD-normalized": HD,
    "MARTHE": MARTHE,
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
    training = Training("MARTHE", seed)
    value = training.search(option="alpha", first=1e12, trials=30)
    assert training.tuner.alpha == value
    assert training.tuner.hyper_lr is None
    assert value < 1e12


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


def test_a_learning_rate_that_ends_at_zero_does_not_hold(seed: int) -> None:
    training = Training("HD", seed)

    def trial() -> Iterator[float]:
        lr = 0.0 if training.tuner.hyper_lr > 0.05 else 0.1
        for group in training.tuner.param_groups:
            group["tuned_lr"], group["scheduled_lr"] = lr, float(group["lr"])
        yield 1.0

    assert find_hyper_lr(training.tuner, trial, model=training.model) == pytest.approx(0.01)
