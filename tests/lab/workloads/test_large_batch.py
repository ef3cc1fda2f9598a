"""Steps, schedule, rule and search of the large-batch study."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")

from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from yfkernels.lab.recipes import Recipe, read_recipe
from yfkernels.lab.workloads.digits import digits_mlp
from yfkernels.lab.workloads.large_batch import sweep, tuned_lr
from yfkernels.lab.workloads.training import Batch, Evaluation


@dataclass(frozen=True)
class Ruler:
    """A task whose held-out accuracy falls with the distance, in doublings, from a best lr.

    Its only weight is the largest lr of the training: the loss is 0, the optimizer below counts.
    """

    best_lr: float
    noise: dict[float, float] = field(default_factory=dict)  # lr -> accuracy instead
    batch_size: int = 4
    is_held_out: bool = False
    title: str = "Ruler"
    conditions: str = ""
    training_size: int = 10

    def with_batch_size(self, batch_size: int) -> Ruler:
        return replace(self, batch_size=batch_size)

    def held_out(self) -> Ruler:
        return replace(self, is_held_out=True)

    def model(self, seed: int) -> nn.Module:
        linear = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(linear.weight)
        return linear

    def batches(self, seed: int) -> Iterator[Batch]:
        while True:
            yield torch.zeros(1), torch.zeros(1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return model.weight.sum() * 0.0

    def evaluate(self, model: nn.Module) -> Evaluation:
        assert self.is_held_out, "tuning looked at the test set"
        lr = round(model.weight.item(), 9)
        distance = abs(math.log2(lr / self.best_lr))
        return Evaluation(loss=0.0, accuracy=self.noise.get(lr, 1.0 - distance / 100.0))

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        raise AssertionError


class LargestLr(SGD):
    """Leaves the largest lr so far in every weight."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.clamp_(min=group["lr"])


class Watched(SGD):
    """Keeps the lr of every step of every training."""

    courses: list[list[float]] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.courses.append([])

    def step(self, closure: Any = None) -> None:
        self.courses[-1].append(self.param_groups[0]["lr"])
        super().step()


def of(optimizer: type[Optimizer], exponent: float = 1.0, **options: Any) -> Recipe:
    return Recipe("?", lambda m, **o: optimizer(m.parameters(), **o), options, exponent)


@pytest.fixture(autouse=True)
def one_thread(threads: None) -> None:
    torch.set_num_threads(1)


@pytest.fixture
def courses() -> list[list[float]]:
    Watched.courses = []
    return Watched.courses


@pytest.mark.parametrize("doublings", [-5, -1, 0, 1, 2, 6])
def test_search_finds_the_best_lr_on_either_side(doublings: int) -> None:
    best = 0.25 * 2.0**doublings
    assert tuned_lr(Ruler(best), of(LargestLr, lr=0.25), epochs=5) == best


def test_search_looks_past_two_failures() -> None:
    task = Ruler(4.0, noise={0.5: 0.0, 1.0: 0.0})
    assert tuned_lr(task, of(LargestLr, lr=0.25), epochs=5) == 4.0
    task = Ruler(4.0, noise={0.5: 0.0, 1.0: 0.0, 2.0: 0.0})
    assert tuned_lr(task, of(LargestLr, lr=0.25), epochs=5) == 0.25


def test_search_starts_at_the_default_where_no_lr_is_set() -> None:
    assert tuned_lr(Ruler(2e-3), of(LargestLr), epochs=5) == 2e-3  # torch's SGD has 1e-3


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_lr_follows_the_rule_and_every_size_sees_as_many_images(
    exponent: float, courses: list[list[float]]
) -> None:
    task = digits_mlp()
    outcomes = list(
        sweep(
            task, of(Watched, exponent, lr=0.02), batch_sizes=[64, 256, 1024], epochs=3, seeds=[5]
        )
    )
    assert [outcome.batch_size for outcome in outcomes] == [64, 256, 1024]
    for outcome, course in zip(outcomes, courses, strict=True):
        assert outcome.lr == pytest.approx(0.02 * (outcome.batch_size / 64) ** exponent)
        assert outcome.steps == len(course)
        assert 3 * 1347 <= outcome.steps * outcome.batch_size < 3 * 1347 + outcome.batch_size


def test_lr_warms_up_and_decays(courses: list[list[float]]) -> None:
    list(sweep(digits_mlp(), of(Watched, lr=1e-3), batch_sizes=[135], epochs=1, seeds=[0]))
    (course,) = courses
    rise = [0.5, 1.0]
    fall = [8 / 8, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert course == pytest.approx([1e-3 * share for share in rise + fall])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_very_short_training_moves_at_every_step(steps: int, courses: list[list[float]]) -> None:
    task = digits_mlp()
    list(sweep(task, of(Watched, lr=0.5), batch_sizes=[1347], epochs=steps, seeds=[0]))
    assert len(courses[0]) == steps
    assert all(0.0 < lr <= 0.5 for lr in courses[0])


def test_outcomes_are_those_of_the_trained_model() -> None:
    chosen = read_recipe("sgd")
    task = digits_mlp()
    first, again, other = sweep(task, chosen, batch_sizes=[64], epochs=4, seeds=[0, 0, 1])
    assert first == again
    assert (first.seed, other.seed) == (0, 1)
    assert first.train_loss != other.train_loss
    untrained = task.model(seed=0)
    assert first.train_loss < 0.5 * task.evaluate_training(untrained).loss
    assert first.test_loss < 0.5 * task.evaluate(untrained).loss
    assert first.test_accuracy > 0.8


def test_the_setting_alone_is_not_what_loses_accuracy() -> None:
    """The same lr at the same batch size, reached by the rule or given, ends the same."""
    task = digits_mlp()
    *_, ruled = sweep(task, of(SGD, lr=0.05), batch_sizes=[64, 256], epochs=2, seeds=[0])
    (given,) = sweep(task, of(SGD, lr=0.2), batch_sizes=[256], epochs=2, seeds=[0])
    assert ruled == given
