"""Two processes over gloo: sharded and replicated training equal training in one process."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import gloo_group
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import yfkernels

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch has no gloo here")

WORLD = 2
STEPS = 10


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    # 65 rows do not split evenly, and the last layer's single row leaves one process with nothing
    return nn.Sequential(nn.Linear(33, 65), nn.ReLU(), nn.Linear(65, 1))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 33, generator=generator), torch.randn(16, 1, generator=generator)


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x, y = batch(step)
        opt.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        opt.step()


def alone(variance: str) -> tuple[nn.Module, yfkernels.YellowFin]:
    model = make_model()
    opt = yfkernels.YellowFin(model.parameters(), variance=variance)
    train(model, opt, range(STEPS))
    return model, opt


def sharded(rank: int, variance: str) -> tuple[nn.Module, yfkernels.YellowFin]:
    model = make_model()
    mesh = init_device_mesh("cpu", (WORLD,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    opt = yfkernels.YellowFin(model.parameters(), variance=variance)
    train(model, opt, range(STEPS))
    return model, opt


def check_sharded_equals_alone(rank: int, variance: str) -> None:
    expected_model, expected = alone(variance)
    model, opt = sharded(rank, variance)
    for name, value in expected.diagnostics().items():
        assert opt.diagnostics()[name] == pytest.approx(value, rel=1e-6), name
    for param, reference in zip(model.parameters(), expected_model.parameters()):
        torch.testing.assert_close(param.full_tensor(), reference, rtol=1e-5, atol=1e-7)


def check_checkpoint_resumes(rank: int, variance: str) -> None:
    model, opt = sharded(rank, variance)
    saved = get_optimizer_state_dict(model, opt)
    resumed = yfkernels.YellowFin(model.parameters(), variance=variance)
    set_optimizer_state_dict(model, resumed, saved)
    assert resumed.diagnostics() == opt.diagnostics()
    for param in model.parameters():
        for name, value in opt.state[param].items():
            assert torch.equal(resumed.state[param][name].to_local(), value.to_local())


def check_one_bad_shard_skips_all(rank: int, variance: str) -> None:
    model, opt = sharded(rank, variance)
    before = [param.to_local().clone() for param in model.parameters()]
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    if rank == 0:
        next(model.parameters()).grad.to_local()[0, 0] = torch.nan
    opt.step()
    assert opt.diagnostics()["skipped_steps"] == 1
    assert all(torch.equal(b, p.to_local()) for b, p in zip(before, model.parameters()))


def check_replicas_stay_equal(rank: int, variance: str) -> None:
    model = DistributedDataParallel(make_model())
    opt = yfkernels.YellowFin(model.parameters(), variance=variance)
    for step in range(STEPS):
        x, y = batch(WORLD * step + rank)
        opt.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        opt.step()
    mine = torch.cat([param.detach().flatten() for param in model.parameters()])
    everyone = [torch.empty_like(mine) for _ in range(WORLD)]
    dist.all_gather(everyone, mine)
    assert torch.equal(everyone[0], everyone[1])


CHECKS = [
    check_sharded_equals_alone,
    check_checkpoint_resumes,
    check_one_bad_shard_skips_all,
    check_replicas_stay_equal,
]


def run_checks(rank: int, store: str, variance: str) -> None:
    warnings.simplefilter("ignore")
    check: Callable[[int, str], None]
    with gloo_group(rank, WORLD, store):
        for check in CHECKS:
            check(rank, variance)


@pytest.mark.parametrize("variance", ["exact", "sketch"])
def test_two_processes(tmp_path: Path, variance: str) -> None:
    torch.multiprocessing.spawn(run_checks, args=(str(tmp_path / "store"), variance), nprocs=WORLD)
