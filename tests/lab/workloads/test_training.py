"""The training loop: what it yields, what it times, and that it trains."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")

from yfkernels.lab.recipes import RECIPES
from yfkernels.lab.workloads.digits import digits_mlp
from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.training import train

PAUSE = 0.005  # seconds


class SlowSGD(torch.optim.SGD):
    def step(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(PAUSE)
        return super().step(*args, **kwargs)


@pytest.fixture(autouse=True)
def one_thread(threads: None) -> None:
    """Tasks this small only wait for a second thread where other programs hold the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def task() -> ExamplesTask:
    return digits_mlp()


def losses(task: ExamplesTask, name: str, steps: int, seed: int = 0) -> list[float]:
    model = task.model(seed)
    optimizer = RECIPES[name].build(model)
    return [record.loss for record in train(task, model, optimizer, steps=steps, seed=seed)]


def test_yields_one_record_a_step(task: ExamplesTask) -> None:
    model = task.model(seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = list(train(task, model, optimizer, steps=7, seed=0))
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6, 7]


def test_first_loss_is_that_of_the_untrained_model(task: ExamplesTask) -> None:
    untrained = task.loss(task.model(seed=0), next(task.batches(seed=0))).item()
    assert losses(task, "sgd", steps=1) == [untrained]


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_same_course(task: ExamplesTask, name: str) -> None:
    assert losses(task, name, steps=20) == losses(task, name, steps=20)


@pytest.mark.parametrize("name", RECIPES)
def test_every_contender_learns(task: ExamplesTask, name: str) -> None:
    course = losses(task, name, steps=150)
    assert sum(course[-10:]) / 10 < 0.5 * course[0]


def test_times_the_optimizer_apart(task: ExamplesTask) -> None:
    model = task.model(seed=0)
    optimizer = SlowSGD(model.parameters(), lr=0.1)
    for record in train(task, model, optimizer, steps=3, seed=0):
        assert PAUSE <= record.optimizer_seconds < record.step_seconds


def test_what_the_caller_does_between_steps_is_not_timed(task: ExamplesTask) -> None:
    model = task.model(seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    timed = 0.0
    started = time.perf_counter()
    for record in train(task, model, optimizer, steps=20, seed=0):
        timed += record.step_seconds
        time.sleep(PAUSE)
    assert timed <= time.perf_counter() - started - 20 * PAUSE


def test_the_loop_waits_for_the_caller(task: ExamplesTask) -> None:
    model = task.model(seed=0)
    optimizer = RECIPES["yellowfin"].build(model)
    for record in train(task, model, optimizer, steps=5, seed=0):
        assert optimizer.diagnostics()["step"] == record.step  # type: ignore[attr-defined]
