"""MultistageSchedule refuses what it cannot or should not schedule, before anything changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from yfkernels.schedules.batch_size_sampler import BatchSizeSampler
from yfkernels.schedules.multistage import MultistageSchedule
from yfkernels.schedules.stage import Stage


def weights() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3))]


def sgd(momentum: float = 0.9) -> torch.optim.SGD:
    return torch.optim.SGD(weights(), lr=1.0, momentum=momentum)


def test_stages_shorter_than_the_run() -> None:
    with pytest.raises(ValueError, match=r"they last 15 steps and the run 16 \(total_steps\)"):
        MultistageSchedule(sgd(), [Stage(5), Stage(10, 0.5)], total_steps=16)
    with pytest.raises(ValueError, match="they last 75 steps and the run 90"):
        MultistageSchedule.from_first_stage(sgd(), length=5, count=4, total_steps=90)
    MultistageSchedule(sgd(), [Stage(5), Stage(10, 0.5)], total_steps=15)


ROUNDED = [
    [Stage(5, 1.0, 0.9), Stage(10, 0.5, 0.947), Stage(20, 0.25, 0.973), Stage(40, 0.125, 0.986)],
    [Stage(5, 1.0), Stage(8, 0.667), Stage(11, 0.444)],
    [Stage(1), Stage(3, 0.3), Stage(10, 0.1)],
]
BROKEN = [
    ([Stage(5), Stage(10, 0.5), Stage(25, 0.25)], r"lr_factor \* length .*stage 2 .* 25 .* 5 in"),
    ([Stage(5), Stage(12, 0.5)], r"lr_factor \* length .*stage 1 has lr_factor 0.5 with length 12"),
    ([Stage(5, 1.0, 0.9), Stage(10, 0.5, 0.9)], r"beta / \(1 - beta\) .*stage 1 .* 0.9 after 1.0"),
    ([Stage(5, 1.0, 0.999), Stage(10, 0.5, 0.999)], r"beta / \(1 - beta\) .*stage 1"),
    (
        [Stage(5, batch_size=64), Stage(10, 0.5, batch_size=64)],
        r"lr_factor / batch_size .*stage 1 has lr_factor 0.5 with batch_size 64 after 1.0 with 64",
    ),
]


@pytest.mark.parametrize("stages", ROUNDED)
def test_invariants_allow_for_rounding(stages: list[Stage]) -> None:
    MultistageSchedule(sgd(), stages)


@pytest.mark.parametrize(("stages", "message"), BROKEN)
def test_invariants_are_checked(stages: list[Stage], message: str) -> None:
    optimizer = sgd()
    sampler = None if stages[0].batch_size is None else BatchSizeSampler(range(9), 3)
    with pytest.raises(ValueError, match=message):
        MultistageSchedule(optimizer, stages, batch_sampler=sampler)
    assert sampler is None or sampler.batch_size == 3
    assert "initial_lr" not in optimizer.param_groups[0]
    MultistageSchedule(optimizer, stages, batch_sampler=sampler, check_invariants=False)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"length": 0}, "Invalid length value: 0; it must be an integer >= 1"),
        ({"length": 1.5}, "Invalid length value: 1.5"),
        ({"length": 1, "lr_factor": 0.0}, "Invalid lr_factor"),
        ({"length": 1, "lr_factor": float("nan")}, "Invalid lr_factor"),
        ({"length": 1, "beta": 1.0}, r"Invalid beta value: 1.0; it must be in \[0, 1\)"),
        ({"length": 1, "batch_size": 0}, "Invalid batch_size"),
    ],
)
def test_bad_stage(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage(**stage)


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ([], {}, "Invalid stages value: .*at least one"),
        ([(5, 1.0)], {}, "Invalid stages value: .*at least one Stage"),
        (
            [Stage(1, beta=0.9), Stage(1)],
            {},
            "stages: stage 1 has no beta, but stage 0 has; give it to all stages or none",
        ),
        (
            [Stage(1), Stage(1, batch_size=4)],
            {},
            "stages: stage 0 has no batch_size, but stage 1 has; give it to all stages or none",
        ),
        ([Stage(1, batch_size=4)], {}, "Invalid batch_sampler value: None; .*BatchSizeSampler"),
        (
            [Stage(1)],
            {"batch_sampler": BatchSizeSampler(range(9), 3)},
            "batch_sampler: no stage has a batch size; leave it out or vary batch_size",
        ),
        ([Stage(1)], {"beta_ramp": 2}, "Invalid beta_ramp value: 2"),
        ([Stage(1, beta=0.9)], {"beta_ramp": -1}, "Invalid beta_ramp value: -1"),
        (
            [Stage(3, 1.0, 0.9), Stage(3, 1.0, 0.9)],
            {"beta_ramp": 4},
            "beta_ramp value: 4; it must be at most the length of stage 1, 3",
        ),
    ],
)
def test_bad_schedule(stages: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultistageSchedule(sgd(), stages, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vary": ("lr", "nu")}, r"Invalid vary value: .*'lr', 'beta', 'batch_size'"),
        ({"vary": "nu"}, "Invalid vary value: .*'nu'"),
        ({"vary": ()}, "Invalid vary"),
        ({"ratio": 0.0}, "Invalid ratio"),
        ({"lr_ratio": -1.0}, "Invalid lr_ratio"),
        ({"vary": ("beta",), "lr_ratio": 3.0}, "Invalid lr_ratio value: 3.0; .*vary has 'lr'"),
        ({"count": 0}, "Invalid count"),
        ({"length": 0}, "Invalid length"),
        ({"vary": ("batch_size",)}, "Invalid batch_sampler value: None"),
        (
            {"vary": ("lr",), "batch_sampler": BatchSizeSampler(range(9), 3)},
            "batch_sampler: no stage has a batch size; leave it out or vary batch_size",
        ),
        (
            {"vary": ("batch_size",), "batch_sampler": BatchSizeSampler(range(9), 3), "count": 4},
            "Invalid count value: 4; it must be smaller: batch size 3 would fall below 1",
        ),
    ],
)
def test_bad_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultistageSchedule.from_first_stage(sgd(), **{"length": 5, "count": 2, **options})


def test_rule_needs_one_momentum() -> None:
    with pytest.raises(ValueError, match=r"momentum of the groups: 0\.0; .*one number in"):
        MultistageSchedule.from_first_stage(sgd(momentum=0), length=5, count=2)
    groups = [{"params": weights()}, {"params": weights(), "momentum": 0.5}]
    two = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    with pytest.raises(ValueError, match=r"momentum of the groups: 0\.5, 0\.9; "):
        MultistageSchedule.from_first_stage(two, length=5, count=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": torch.nn.Linear(1, 1)}, "optimizer type: Linear; give an Optimizer"),
        (
            {"batch_sampler": DataLoader(range(9))},  # type: ignore[arg-type]
            "batch_sampler type: DataLoader; give the BatchSizeSampler, not the DataLoader",
        ),
    ],
)
def test_bad_types(change: dict[str, Any], message: str) -> None:
    """The class and the rule say the same."""
    given: dict[str, Any] = {"optimizer": sgd()} | change
    with pytest.raises(TypeError, match=message):
        MultistageSchedule(stages=[Stage(1, batch_size=4)], **given)
    for vary in ("lr", "batch_size"):
        with pytest.raises(TypeError, match=message):
            MultistageSchedule.from_first_stage(length=5, count=2, vary=vary, **given)


def test_one_stage_is_no_list() -> None:
    one: Any = Stage(5)
    with pytest.raises(TypeError, match="Invalid stages type: Stage; give a list of stages"):
        MultistageSchedule(sgd(), one)
