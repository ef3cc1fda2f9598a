"""Two processes on one GPU under DistributedDataParallel: the replicas stay equal bit for bit.

Over gloo: NCCL refuses two ranks on one device.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.cases import MODES, Site, why_unusable
from support.processes import gloo_group
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from yfkernels import YellowFin

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch has no gloo here"),
]
WORLD = 2
STEPS = 10


def make_model(device: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(33, 65), nn.Tanh(), nn.Linear(65, 1)).to(device)


def train(
    model: nn.Module, optimizer: YellowFin, device: str, ranks: tuple[int, ...]
) -> list[Tensor]:
    """Every rank has its own batches; who has several takes them together."""
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(WORLD, 16, 33, generator=generator)[list(ranks)].flatten(0, 1).to(device)
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    return [param.detach().cpu() for param in model.parameters()]


def run_rank(rank: int, store: str, device: str, backends: list[str]) -> None:
    with gloo_group(rank, WORLD, store):
        for choice in itertools.product(backends, MODES.items(), (False, True)):
            backend, (name, mode), capturable = choice
            options = {"backend": backend, **mode, "capturable": capturable}
            model = DistributedDataParallel(make_model(device))
            mine = train(model, YellowFin(model.parameters(), **options), device, (rank,))
            for param in mine:
                everyone = [torch.empty_like(param) for _ in range(WORLD)]
                dist.all_gather(everyone, param)
                assert torch.equal(*everyone), options

            # a code may tip where gradients are summed in another order
            if name in ("compact", "float8"):
                continue
            model = make_model(device)
            alone = train(model, YellowFin(model.parameters(), **options), device, (0, 1))
            for param, reference in zip(mine, alone, strict=True):
                torch.testing.assert_close(param, reference, rtol=1e-3, atol=1e-5)


def test_replicas_stay_equal(tmp_path: Path, device: str) -> None:
    backends = [b for b in ("native", "triton") if why_unusable(Site(b, device)) is None]
    if not backends:
        pytest.skip("no fused backend is usable")
    arguments = (str(tmp_path / "store"), device, backends)
    torch.multiprocessing.spawn(run_rank, args=arguments, nprocs=WORLD)
