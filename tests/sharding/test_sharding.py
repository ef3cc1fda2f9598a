"""Two processes over gloo: sharded and replicated training equal training in one process."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.processes import NO_FSDP2, gloo_group
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import yfkernels

try:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
except ImportError:
    pytest.skip(NO_FSDP2, allow_module_level=True)

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch has no gloo here")

Build = Callable[[Any], Any]
WORLD = 2
STEPS = 10


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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


def alone(build: Build) -> tuple[nn.Module, Any]:
    model = make_model()
    opt = build(model.parameters())
    train(model, opt, range(STEPS))
    return model, opt


def shard(model: nn.Sequential) -> nn.Sequential:
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in model[:-1]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def told(opt: Any) -> dict[str, float]:
    """What it says of every group that is tuned for itself."""
    if not isinstance(opt, yfkernels.YellowFin):
        return opt.diagnostics()
    each = [opt.diagnostics(group) for group in range(len(opt.param_groups))]
    return {f"{name} {i}": value for i, own in enumerate(each) for name, value in own.items()}


def sharded(build: Build) -> tuple[nn.Module, Any]:
    model = shard(make_model())
    opt = build(model.parameters())
    train(model, opt, range(STEPS))
    return model, opt


def check_sharded_equals_alone(rank: int, build: Build) -> None:
    expected_model, expected = alone(build)
    model, opt = sharded(build)
    assert told(opt) == pytest.approx(told(expected), rel=1e-6, nan_ok=True)
    for param, reference in zip(model.parameters(), expected_model.parameters()):
        torch.testing.assert_close(param.full_tensor(), reference, rtol=1e-5, atol=1e-7)
        if "step" in expected.state[reference]:  # a process without elements counts, too
            assert float(opt.state[param]["step"]) == STEPS
    if isinstance(opt, yfkernels.LAMB):
        ratios, seen = expected.trust_ratios(), opt.trust_ratios()
        mine = {str(i) for i, p in enumerate(model.parameters()) if p.to_local().numel()}
        assert mine == seen.keys() & mine
        assert {i: seen[i] for i in mine} == pytest.approx({i: ratios[i] for i in mine}, rel=1e-5)


def check_checkpoint_resumes(rank: int, build: Build) -> None:
    model, opt = sharded(build)
    saved = get_optimizer_state_dict(model, opt)
    resumed = build(model.parameters())
    set_optimizer_state_dict(model, resumed, saved)
    assert told(resumed) == pytest.approx(told(opt), rel=0.0, nan_ok=True)
    for param in model.parameters():
        for name, value in opt.state[param].items():
            assert torch.equal(local(resumed.state[param][name]), local(value)), name


def check_one_process_saves_alone(rank: int, build: Build) -> None:
    """Nobody has to be asked: all processes have the whole tuner after every step."""
    _, opt = sharded(build)
    if rank == 0:
        opt.state_dict()
    states = [group[opt._tuner.key] for group in opt.param_groups if opt._tuner.key in group]
    mine = torch.cat(states).nan_to_num(7.0)
    everyone = [torch.empty_like(mine) for _ in range(WORLD)]
    dist.all_gather(everyone, mine)
    assert torch.equal(everyone[0], everyone[1])


def check_one_bad_shard_skips_all(rank: int, build: Build) -> None:
    model, opt = sharded(build)
    before = [param.to_local().clone() for param in model.parameters()]
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    if rank == 0:
        next(model.parameters()).grad.to_local()[0, 0] = torch.nan
    steps = [float(state.get("step", 0.0)) for state in opt.state.values()]
    opt.step()
    assert opt.diagnostics()["skipped_steps"] == 1
    assert steps == [float(state.get("step", 0.0)) for state in opt.state.values()]
    assert all(torch.equal(b, p.to_local()) for b, p in zip(before, model.parameters()))


def check_replicas_stay_equal(rank: int, build: Build) -> None:
    model = DistributedDataParallel(make_model())
    opt = build(model.parameters())
    for step in range(STEPS):
        x, y = batch(WORLD * step + rank)
        opt.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        opt.step()
    mine = torch.cat([param.detach().flatten() for param in model.parameters()])
    everyone = [torch.empty_like(mine) for _ in range(WORLD)]
    dist.all_gather(everyone, mine)
    assert torch.equal(everyone[0], everyone[1])


def check_a_process_without_any_element(rank: int, build: Build) -> None:
    """It has no table, and still takes part in every sum and counts every step."""
    torch.manual_seed(0)
    expected_model = nn.Sequential(nn.Linear(33, 1))
    model = shard(copy.deepcopy(expected_model))
    expected, opt = build(expected_model.parameters()), build(model.parameters())
    assert rank == 0 or not any(local(param).numel() for param in model.parameters())
    train(expected_model, expected, range(STEPS))
    train(model, opt, range(STEPS))
    assert opt.diagnostics() == pytest.approx(expected.diagnostics(), rel=1e-6, nan_ok=True)
    for param, reference in zip(model.parameters(), expected_model.parameters()):
        torch.testing.assert_close(param.full_tensor(), reference, rtol=1e-5, atol=1e-7)
        if "step" in expected.state[reference]:
            assert float(opt.state[param]["step"]) == STEPS


def check_gradients_split_otherwise(rank: int, build: Build) -> None:
    """Of a parameter that every process has whole: partial sums are added up, shards joined."""
    mesh = init_device_mesh("cpu", (WORLD,))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 3, generator=generator)
    for placement in (Partial(), Shard(0)):
        p = nn.Parameter(distribute_tensor(values.clone(), mesh, [Replicate()]))
        whole = nn.Parameter(values.clone())
        opt, expected = build([p]), build([whole])
        for _ in range(3):
            whole.grad = torch.randint(-8, 9, (6, 3), generator=generator).float()
            mine = (whole.grad - 5.0, torch.full((6, 3), 5.0))[rank]
            part = mine if placement.is_partial() else whole.grad.chunk(WORLD)[rank]
            p.grad = DTensor.from_local(part, mesh, [placement])
            opt.step()
            expected.step()
        assert torch.equal(p.to_local(), whole), placement


def check_rounds_as_alone(rank: int) -> None:
    """The random bits of an element are those it has in the whole tensor."""
    results = []
    for whole in (False, True):
        model = make_model().bfloat16()
        if not whole:
            shard(model)
        opt = yfkernels.QHM.from_sgd(model.parameters(), lr=2.0**-6, stochastic_rounding=True)
        for _ in range(3):
            for param in model.parameters():
                param.grad = torch.ones_like(param)  # the move is exact before it is rounded
            opt.step()
        results.append(list(model.parameters()))
    for param, reference in zip(*results):
        assert torch.equal(param.full_tensor(), reference)


def of_groups(params: Any) -> yfkernels.YellowFin:
    """The first layer, and the last, each tuned for itself."""
    params = list(params)
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    return yfkernels.YellowFin(groups, tune="group", preconditioner="diagonal")


CHECKS = [
    check_sharded_equals_alone,
    check_checkpoint_resumes,
    check_one_process_saves_alone,
    check_one_bad_shard_skips_all,
    check_replicas_stay_equal,
    check_a_process_without_any_element,
    check_gradients_split_otherwise,
]
BUILDS: dict[str, Build] = {
    "robust": partial(yfkernels.YellowFin, preconditioner=None),
    "diagonal": partial(yfkernels.YellowFin, preconditioner="diagonal"),
    "compact": partial(yfkernels.YellowFin, preconditioner="compact"),
    "float8": partial(yfkernels.YellowFin, momentum_dtype=torch.float8_e4m3fn),
    "by group": of_groups,
    "exact": partial(yfkernels.YellowFin, variance="exact", robust=False),
    "sketch": partial(yfkernels.YellowFin, variance="sketch", robust=False),
    "trust ratio": partial(
        yfkernels.YellowFin, trust_ratio=True, robust=False, lr=0.1, initial_lr=0.01
    ),
    "LAMB": partial(yfkernels.LAMB, lr=0.01, max_grad_norm=0.1, always_adapt=True),
    "QHAdam": partial(yfkernels.QHAdam, skip_nonfinite=True),
}
ONE_PROCESS_GROUP = [
    ("robust", "diagonal", "by group", "exact", "sketch"),
    ("LAMB", "compact", "float8", "trust ratio", "QHAdam"),
]


def run_checks(rank: int, store: str, names: tuple[str, ...]) -> None:
    warnings.simplefilter("ignore")
    check: Callable[[int, Build], None]
    with gloo_group(rank, WORLD, store):
        for name in names:
            for check in CHECKS:
                try:
                    check(rank, BUILDS[name])
                except Exception as error:
                    raise AssertionError(f"{name}, {check.__name__}") from error
        check_rounds_as_alone(rank)


@pytest.mark.parametrize("names", ONE_PROCESS_GROUP, ids=", ".join)
def test_two_processes(tmp_path: Path, names: tuple[str, ...]) -> None:
    torch.multiprocessing.spawn(run_checks, args=(str(tmp_path / "store"), names), nprocs=WORLD)
