"""Four processes: replicas stay equal to the bit, meshes with empty shards equal one process."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.cases import assert_same_bits
from support.processes import MESHES, NO_FSDP2, Processes, everyones, mesh_of
from support.resume import (
    FEATURES,
    OURS,
    STEPS,
    WRAPPED,
    assert_close,
    assert_near,
    decaying,
    make_model,
    snapshot,
    train,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if not dist.is_gloo_available():
    pytest.skip("torch has no gloo here", allow_module_level=True)

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:
    fully_shard = None

REPLICA_STEPS = 1000
ROWS = (5, 3, 1)  # over four processes: 2 2 1 0, 1 1 1 0, 1 0 0 0; over two: 3 2, 2 1, 1 0

BUILDS = {**OURS, **WRAPPED}
# HD is slow on small models, and its sums are the same for all bases.
REPLICATED = {name: BUILDS[name] for name in BUILDS if name not in ("HD-QHM", "HD-QHAdam")}


# ---- replicas


class Ensemble(nn.Module):
    """A model for each optimizer under one wrapper: a step has one all-reduce for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.models = nn.ModuleList(make_model() for _ in REPLICATED)

    def forward(self, x: Tensor) -> Tensor:
        first, _, last = zip(*self.models)
        return side_by_side(last, side_by_side(first, x.expand(len(first), -1, -1)).tanh())


def side_by_side(layers: Sequence[nn.Linear], x: Tensor) -> Tensor:
    """What linear layers make each of its own input, in one product."""
    weights, biases = (torch.stack(each) for each in zip(*((a.weight, a.bias) for a in layers)))
    return torch.baddbmm(biases.unsqueeze(1), x, weights.mT)


def batches(steps: int, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Other samples on each process, in each step."""
    generator = torch.Generator().manual_seed(rank)
    for _ in range(steps):
        x = torch.randn(4, FEATURES, generator=generator)
        yield x, x[:, :1].sin() + 0.1 * torch.randn(4, 1, generator=generator)


def saved_bytes(value: Any) -> bytes:
    """What torch.save makes of it: the same for the same bits."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_replicas_are_equal_to_the_bit_in_every_step(four: Processes) -> None:
    four(check_replicas_are_equal_to_the_bit_in_every_step)


def check_replicas_are_equal_to_the_bit_in_every_step(rank: int) -> None:
    """Parameters after every step, and all of the state, the tuner's included, at the end."""
    ensemble = Ensemble()
    optimizers = {
        name: build(decaying(model))
        for (name, build), model in zip(REPLICATED.items(), ensemble.models)
    }
    replica = DistributedDataParallel(ensemble)
    hashes = {name: hashlib.sha256() for name in REPLICATED}
    for x, y in batches(REPLICA_STEPS, rank):
        replica.zero_grad()
        outputs = replica(x)
        (outputs - y).square().mean((1, 2)).sum().backward()
        for (name, optimizer), model in zip(optimizers.items(), ensemble.models):
            optimizer.step()
            for p in model.parameters():
                hashes[name].update(p.detach().numpy().tobytes())
    start = make_model()
    for (name, optimizer), model in zip(optimizers.items(), ensemble.models):
        hashes[name].update(saved_bytes(snapshot(model, optimizer)))
        for p, before in zip(model.parameters(), start.parameters()):
            assert p.isfinite().all(), name
            assert not torch.equal(p, before), name
    digests = everyones({name: found.hexdigest() for name, found in hashes.items()})
    assert all(digest == digests[0] for digest in digests)
    assert len(set(digests[0].values())) == len(REPLICATED)


# ---- meshes


def uneven_model() -> nn.Sequential:
    torch.manual_seed(0)
    five, three, one = ROWS
    return nn.Sequential(
        *(nn.Linear(FEATURES, five), nn.Tanh(), nn.Linear(five, three), nn.Tanh()),
        nn.Linear(three, one),
    )


@pytest.mark.skipif(fully_shard is None, reason=NO_FSDP2)
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", BUILDS)
def test_a_mesh_equals_one_process(name: str, mesh: str, four: Processes) -> None:
    four(check_a_mesh_equals_one_process, name, mesh)


def check_a_mesh_equals_one_process(rank: int, name: str, mesh: str) -> None:
    """To rounding; and what each process tunes to is the same on all, to the bit."""
    build = BUILDS[name]
    if name == "LAMB":
        build = partial(build, max_grad_norm=0.1)  # below every norm there is
    alone = uneven_model()
    expected = build(alone.parameters())
    train(alone, expected, range(STEPS))

    model = fully_shard(uneven_model(), mesh=mesh_of(mesh))
    optimizer = build(model.parameters())
    train(model, optimizer, range(STEPS), rank, dist.get_world_size())

    elements = everyones(sum(p.to_local().numel() for p in model.parameters()))
    assert (elements[-1] == 0) == (mesh == "FSDP2")
    assert_close(snapshot(model, optimizer, whole=True), snapshot(alone, expected))
    seen = optimizer.diagnostics()
    # its radius is the root of a sum of changes, which cancel
    assert_near(seen, expected.diagnostics(), 1e-4 if name == "YellowFin-robust" else 1e-5)
    for others in everyones(seen):
        assert_same_bits(others, seen)
