"""One training: the same seed gives the same numbers, and modes and schedules are minded."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from tiny_tasks import STEPS
from torch import nn

from bench.convergence import cell as training
from bench.convergence.campaign import Campaign
from bench.convergence.cell import TUNING_SEEDS, Cell
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.contestants.contestant import cosine
from bench.convergence.measures import sampled_steps
from bench.convergence.result import TrainingResult
from yfkernels.lab.recipes import Recipe

pytestmark = pytest.mark.usefixtures("tiny")
TIMES = {"optimizer_us": 0.0, "seconds": 0.0}


def cell(contestant: str, seed: int = 0, **options: float) -> Cell:
    """As a campaign would have it."""
    campaign = Campaign({"tiny": ""}, [contestant], [seed])
    return campaign.cell("tiny", contestant, options, seed)


def run(contestant: str, seed: int = 0, **options: float) -> TrainingResult:
    return training.run(cell(contestant, seed, **options))


RIVALS = [name for name, one in CONTESTANTS.items() if "yellowfin" not in name and not one.average]


@pytest.mark.parametrize("contestant", RIVALS)
def test_same_seed_same_numbers(contestant: str) -> None:
    if (why := CONTESTANTS[contestant].why_absent) is not None:
        pytest.skip(why)
    first, second = (replace(run(contestant), **TIMES) for _ in range(2))
    assert first == second


def test_published_yellowfin_repeats_too() -> None:
    first, second = (replace(run("yellowfin-published"), **TIMES) for _ in range(2))
    assert first == second


def test_another_seed_other_numbers() -> None:
    assert run("adamw", seed=0).trace != run("adamw", seed=1).trace


def test_a_training_is_described_completely() -> None:
    result = run("sgd")
    assert len(result.trace) == len(sampled_steps(STEPS))
    assert 0.0 < result.final_loss < result.trace[0]
    assert 0.0 <= result.test_accuracy <= 1.0
    assert result.optimizer_us > 0.0
    assert result.seconds > 0.0
    assert "torch" in result.versions
    assert result.key.setting == "lr 0.1, momentum 0.9"


def test_tuning_keeps_no_trace() -> None:
    assert run("sgd", seed=TUNING_SEEDS[0]).trace == ()


def test_options_reach_the_optimizer() -> None:
    assert run("adamw", lr=0.1).final_loss < run("adamw", lr=1e-4).final_loss


def test_a_training_that_explodes_is_told() -> None:
    result = run("reckless")
    assert result.diverged
    assert math.isinf(result.final_loss)
    assert len(result.trace) < len(sampled_steps(STEPS))


def test_cosine_ends_at_zero() -> None:
    assert [cosine(taken, 4) for taken in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])


def test_the_schedule_drives_lr(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, *args: object, **kwargs: object) -> None:
            seen.append(self.param_groups[0]["lr"])

    recipe = Recipe("watched", lambda model: Watched(model.parameters(), lr=1.0))
    watched = replace(CONTESTANTS["sgd"], recipe=recipe, schedule=cosine)
    monkeypatch.setitem(CONTESTANTS, "watched", watched)
    run("watched")
    assert seen == pytest.approx([cosine(taken, STEPS) for taken in range(STEPS)])


def test_schedule_free_is_evaluated_with_its_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with BatchNorm's statistics of them, which no step in training has seen."""

    class Moving(torch.optim.SGD):
        training = False

        def train(self) -> None:
            self.training = True

        @torch.no_grad()
        def eval(self) -> None:
            self.training = False
            self.param_groups[0]["params"][1].add_(100.0)  # the bias before the norm

        def step(self, *args: object, **kwargs: object) -> None:
            assert self.training

    models = []

    def moving(model: nn.Sequential) -> Moving:
        models.append(model)
        return Moving(model.parameters(), lr=0.0)

    recipe = Recipe("moving", moving)
    monkeypatch.setitem(CONTESTANTS, "moving", replace(CONTESTANTS["sgd"], recipe=recipe))
    result = run("moving")
    (model,) = models
    assert (model[0].bias > 90.0).all()
    assert torch.allclose(model[1].running_mean, model[0].bias, atol=2.0)
    assert result.test_loss < 2.0  # far higher with the statistics of the other weights


def test_a_contestant_that_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("no", lambda model: torch.optim.SGD(model.parameters(), robust=True))
    refused = replace(CONTESTANTS["sgd"], recipe=recipe)
    assert "robust" in (refused.why_absent or "")
    assert CONTESTANTS["adamw"].why_absent is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prodigyplus", None)
    why = CONTESTANTS["prodigy-plus"].why_absent or ""
    assert "prodigy-plus-schedule-free is not installed" in why


def test_a_release_without_the_optimizer_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", ModuleType("schedulefree"))
    assert "pip install" in (CONTESTANTS["schedulefree-plus"].why_absent or "")
