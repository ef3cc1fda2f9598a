"""MultistageSchedule: values stage by stage, the rule of the theory, and torch's conventions."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import Optimizer, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from yfkernels import YellowFin
from yfkernels.schedules.batch_size_sampler import BatchSizeSampler
from yfkernels.schedules.multistage import MultistageSchedule
from yfkernels.schedules.stage import Stage


class BetaSGD(torch.optim.SGD):
    """An optimizer whose momentum goes by the name of QHM's."""

    def __init__(self, params: Any, lr: float, beta: float) -> None:
        super().__init__(params, lr)
        self.param_groups[0]["beta"] = beta


def weights(n: int = 3) -> list[torch.nn.Parameter]:
    weight = torch.nn.Parameter(torch.ones(n))
    weight.grad = torch.ones(n)
    return [weight]


def sgd(lr: Any = 1.0, momentum: float = 0.9) -> torch.optim.SGD:
    return torch.optim.SGD(weights(), lr=lr, momentum=momentum)


def momentum_of(optimizer: Optimizer) -> float:
    group = optimizer.param_groups[0]
    for key, value in (("beta", None), ("betas", 0), ("momentum", None)):
        if key in group:
            return float(group[key] if value is None else group[key][value])
    raise AssertionError("no momentum")


def run(optimizer: Optimizer, schedule: Any, steps: int) -> Iterator[tuple[float, float]]:
    """The lr and momentum each step is taken with."""
    for _ in range(steps):
        yield float(optimizer.param_groups[0]["lr"]), momentum_of(optimizer)
        optimizer.step()
        schedule.step()


def reloaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Of the order of calls, above all; torch's own SequentialLR is not at fault either."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---- values


@pytest.mark.parametrize(
    "make",
    [
        sgd,
        lambda: BetaSGD(weights(), lr=1.0, beta=0.9),
        lambda: torch.optim.Adam(weights(), lr=1.0, betas=(0.9, 0.5)),
        lambda: sgd(lr=torch.tensor(1.0)),
    ],
    ids=["momentum", "beta", "betas", "tensor lr"],
)
def test_published_example(make: Any) -> None:
    """Ratio 2 from .9: the betas and lengths of the paper, for every name of momentum."""
    optimizer = make()
    schedule = MultistageSchedule.from_first_stage(optimizer, length=5, count=4, total_steps=75)
    values = list(run(optimizer, schedule, 75))
    assert [lr for lr, _ in values] == [1.0] * 5 + [0.5] * 10 + [0.25] * 20 + [0.125] * 40
    betas = [round(beta, 3) for _, beta in values]
    assert betas == [0.9] * 5 + [0.947] * 10 + [0.973] * 20 + [0.986] * 40
    if "betas" in optimizer.param_groups[0]:
        assert optimizer.param_groups[0]["betas"][1] == 0.5


def test_last_stage_goes_on() -> None:
    optimizer = sgd()
    schedule = MultistageSchedule(optimizer, [Stage(1), Stage(2, lr_factor=0.5)])
    assert [lr for lr, _ in run(optimizer, schedule, 6)] == [1.0] + [0.5] * 5
    assert schedule.stage == 1


@pytest.mark.parametrize("vary", [("lr",), "lr"])
def test_lr_alone_leaves_momentum_alone(vary: Any) -> None:
    optimizer = sgd()
    schedule = MultistageSchedule.from_first_stage(optimizer, length=1, count=3, vary=vary)
    assert list(run(optimizer, schedule, 5)) == [(1.0, 0.9)] + [(0.5, 0.9)] * 2 + [(0.25, 0.9)] * 2


@pytest.mark.parametrize("lr_ratio", [1.5, 4.0])
def test_under_and_over_shrinking(lr_ratio: float) -> None:
    schedule = MultistageSchedule.from_first_stage(sgd(), length=5, count=4, lr_ratio=lr_ratio)
    plain = MultistageSchedule.from_first_stage(sgd(), length=5, count=4)
    for i, (stage, usual) in enumerate(zip(schedule.stages, plain.stages, strict=True)):
        assert stage.lr_factor == pytest.approx(lr_ratio**-i)
        assert (stage.length, stage.beta) == (usual.length, usual.beta)


@pytest.mark.parametrize("ratio", [1.3, 2.0, 3.0])
def test_the_rule_keeps_the_invariants(ratio: float) -> None:
    """Whole lengths and batch sizes are rounded; the check allows for that and no more."""
    sampler = BatchSizeSampler(range(1000), 100)
    parts = ("lr", "beta", "batch_size")
    ruled = MultistageSchedule.from_first_stage(
        sgd(), length=7, count=4, ratio=ratio, vary=parts, batch_sampler=sampler
    )
    MultistageSchedule(sgd(), ruled.stages, batch_sampler=sampler)
    odds = [s.lr_factor * s.beta / (1 - s.beta) for s in ruled.stages if s.beta is not None]
    assert odds == pytest.approx([9.0] * 4)


def test_groups_keep_the_proportion_of_their_lr() -> None:
    optimizer = torch.optim.SGD(
        [{"params": weights()}, {"params": weights(), "lr": 0.1}], lr=1.0, momentum=0.9
    )
    schedule = MultistageSchedule.from_first_stage(optimizer, length=1, count=2, ratio=4.0)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.25, 0.025]
    assert [group["momentum"] for group in optimizer.param_groups] == [36 / 37] * 2


def test_ramp_of_beta() -> None:
    stages = [Stage(2, 1.0, 0.5), Stage(6, 0.5, 0.9), Stage(4, 0.25, 0.1)]
    optimizer = sgd()
    schedule = MultistageSchedule(optimizer, stages, beta_ramp=4, check_invariants=False)
    betas = [beta for _, beta in run(optimizer, schedule, 13)]
    first, second = [0.5, 0.6, 0.7, 0.8, 0.9, 0.9], [0.9, 0.7, 0.5, 0.3, 0.1]
    assert betas == pytest.approx([0.5, 0.5, *first, *second])


def test_tensor_betas_are_filled_in_place() -> None:
    """A capturable Adam has its betas on the device, at an address that a graph may hold."""
    betas = (torch.tensor(0.9), torch.tensor(0.99))
    optimizer = torch.optim.Adam(weights(), lr=torch.tensor(1.0), betas=betas, foreach=False)
    schedule = MultistageSchedule(optimizer, [Stage(1, 1.0, 0.5), Stage(1, 0.5, 2 / 3)])
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["betas"][0] is betas[0]
    assert float(betas[0]) == pytest.approx(2 / 3)


def test_lr_of_yellowfin() -> None:
    optimizer = YellowFin(weights(), backend="torch")
    schedule = MultistageSchedule(optimizer, [Stage(2), Stage(4, lr_factor=0.5)])
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match=r"beta is to vary.*YellowFin tunes its momentum itself"):
        MultistageSchedule(optimizer, [Stage(2, beta=0.9)])
    with pytest.raises(ValueError, match="YellowFin tunes its momentum itself"):
        MultistageSchedule.from_first_stage(optimizer, length=2, count=2)


# ---- batch size


@pytest.mark.parametrize("workers", [0, 2])
def test_batch_sizes_of_a_training_change(workers: int) -> None:
    """A model trained through a real DataLoader, the schedule stepped once an epoch."""
    data = TensorDataset(torch.randn(64, 3), torch.randn(64, 1))
    sampler = BatchSizeSampler(data, 32)
    loader = DataLoader(
        data, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    schedule = MultistageSchedule.from_first_stage(
        optimizer, length=1, count=3, vary=("lr", "beta", "batch_size"), batch_sampler=sampler
    )
    sizes = []
    for _ in range(7):
        sizes.append([len(x) for x, _ in _trained(loader, model, optimizer)])
        schedule.step()
    assert sizes == [[32] * 2] + [[16] * 4] * 2 + [[8] * 8] * 4


def _trained(
    loader: DataLoader[Any], model: torch.nn.Module, optimizer: Optimizer
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for x, y in loader:
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        yield x, y


def test_batch_size_changes_within_an_epoch() -> None:
    sampler = BatchSizeSampler(range(20), 8)
    optimizer = sgd()
    stages = [Stage(1, 1.0, batch_size=8), Stage(2, 0.5, batch_size=4)]
    schedule = MultistageSchedule(optimizer, stages, batch_sampler=sampler)
    sizes = []
    for batch in sampler:
        sizes.append(len(batch))
        optimizer.step()
        schedule.step()
    assert sizes == [8, 4, 4, 4]


def test_any_object_with_a_batch_size_will_do() -> None:
    class Mine:
        batch_size = 1

    mine: Any = Mine()
    MultistageSchedule(sgd(), [Stage(1, batch_size=64)], batch_sampler=mine)
    assert mine.batch_size == 64


# ---- saving


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("lr", [0.3, torch.tensor(0.3)], ids=["float", "tensor"])
def test_resumes_exactly(stop: int, lr: Any) -> None:
    def build() -> tuple[Optimizer, BatchSizeSampler, MultistageSchedule]:
        optimizer = sgd(lr=copy.deepcopy(lr))
        sampler = BatchSizeSampler(range(100), 50)
        schedule = MultistageSchedule.from_first_stage(
            optimizer,
            length=2,
            count=4,
            ratio=1.7,
            vary=("lr", "beta", "batch_size"),
            batch_sampler=sampler,
            beta_ramp=2,
        )
        return optimizer, sampler, schedule

    optimizer, sampler, schedule = build()
    list(run(optimizer, schedule, stop))
    saved = reloaded({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})
    other, other_sampler, resumed = build()
    other.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["schedule"])
    assert other_sampler.batch_size == sampler.batch_size
    assert resumed.get_last_lr() == schedule.get_last_lr()
    assert list(run(other, resumed, 20)) == list(run(optimizer, schedule, 20))
    assert reloaded(resumed.state_dict()) == reloaded(schedule.state_dict())
    assert other_sampler.batch_size == sampler.batch_size


def test_resumes_by_last_epoch() -> None:
    """The older way of torch: the optimizer's state, and the number of the last step."""
    stages = [Stage(2, 1.0, 0.5), Stage(4, 0.5, 2 / 3)]
    optimizer, other = sgd(), sgd()
    schedule = MultistageSchedule(optimizer, stages)
    list(run(optimizer, schedule, 1))
    other.load_state_dict(optimizer.state_dict())
    schedule.step()
    resumed = MultistageSchedule(other, stages, last_epoch=1)
    assert list(run(other, resumed, 6)) == list(run(optimizer, schedule, 6))


def test_saves_plain_numbers() -> None:
    stages = [Stage(2, np.float64(1.0), np.float64(0.5))]
    state = MultistageSchedule(sgd(), stages).state_dict()
    assert reloaded(state)["_stages"] == [[2, 1.0, 0.5, None]]


def test_saved_stages_win() -> None:
    optimizer = sgd()
    state = MultistageSchedule(optimizer, [Stage(2), Stage(4, 0.5)]).state_dict()
    schedule = MultistageSchedule(optimizer, [Stage(7)])
    schedule.load_state_dict(reloaded(state))
    assert schedule.stages == (Stage(2), Stage(4, 0.5))
    assert [lr for lr, _ in run(optimizer, schedule, 3)] == [1.0, 1.0, 0.5]


def test_state_that_this_optimizer_cannot_follow() -> None:
    state = MultistageSchedule(sgd(), [Stage(2, beta=0.9)]).state_dict()
    optimizer = torch.optim.Adagrad(weights(), lr=1.0)
    schedule = MultistageSchedule(optimizer, [Stage(2)])
    with pytest.raises(ValueError, match="beta is to vary"):
        schedule.load_state_dict(state)
    assert schedule.stages == (Stage(2),)


# ---- beside torch's schedulers


def test_is_torchs_multistep_lr() -> None:
    """The same bits as MultiStepLR for a halving lr."""
    optimizer, other = sgd(lr=0.3), sgd(lr=0.3)
    schedule = MultistageSchedule.from_first_stage(optimizer, length=2, count=4, vary=("lr",))
    multistep = lr_scheduler.MultiStepLR(other, [2, 6, 14], gamma=0.5)
    assert isinstance(schedule, lr_scheduler.LRScheduler)
    for _ in range(20):
        assert schedule.get_last_lr() == multistep.get_last_lr()
        for o, s in ((optimizer, schedule), (other, multistep)):
            o.step()
            s.step()


def test_warm_up_chained() -> None:
    optimizer = sgd()
    warm_up = lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3)
    schedule = MultistageSchedule.from_first_stage(optimizer, length=2, count=2)
    chain = lr_scheduler.ChainedScheduler([warm_up, schedule])
    lrs = [lr for lr, _ in run(optimizer, chain, 6)]
    assert lrs == pytest.approx([0.25, 0.5, 0.375, 0.5, 0.5, 0.5])


def test_warm_up_in_sequence() -> None:
    """The first stage's factor too holds from the milestone on."""
    optimizer = sgd()
    warm_up = lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    schedule = MultistageSchedule(optimizer, [Stage(2, 0.8, 0.5), Stage(4, 0.4, 2 / 3)])
    sequence = lr_scheduler.SequentialLR(optimizer, [warm_up, schedule], milestones=[2])
    values = list(run(optimizer, sequence, 6))
    assert [lr for lr, _ in values] == pytest.approx([0.5, 0.75, 0.8, 0.8, 0.4, 0.4])
    assert [beta for _, beta in values] == pytest.approx([0.5] * 4 + [2 / 3] * 2)


def test_group_added_later() -> None:
    optimizer = sgd()
    schedule = MultistageSchedule.from_first_stage(optimizer, length=1, count=2)
    optimizer.add_param_group({"params": weights(), "lr": 0.2})
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.5, 0.1]


def test_order_of_calls_is_watched() -> None:
    schedule = MultistageSchedule(sgd(), [Stage(2)])
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        schedule.step()
