"""FSDP2: what programs do to parameters and state around the steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.cases import assert_same_bits
from support.processes import NO_FSDP2, WORLD, Processes, everyones
from support.resume import (
    BUILDS,
    CUT,
    EQUALS,
    IN_FRAMEWORKS,
    STEPS,
    assert_close,
    make_model,
    own_copy,
    snapshot,
    train,
)
from torch import nn

if not dist.is_gloo_available():
    pytest.skip("torch has no gloo here", allow_module_level=True)
try:
    from torch.distributed.fsdp import fully_shard
except ImportError:
    pytest.skip(NO_FSDP2, allow_module_level=True)

from torch.distributed.tensor.debug import CommDebugMode
from torch.utils._python_dispatch import TorchDispatchMode

every_build = pytest.mark.parametrize("name", BUILDS)


def sharded() -> nn.Module:
    return fully_shard(make_model())


def collectives(function: Any) -> int:
    """How often processes had to talk to each other."""
    with CommDebugMode() as counted:
        function()
    return counted.get_total_counts()


class Operations(TorchDispatchMode):
    """Counts what torch itself is given to do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), options: Any = None
    ) -> Any:
        self.count += 1
        return operation(*args, **(options or {}))


def operations(function: Any) -> int:
    with Operations() as counted:
        function()
    return counted.count


@every_build
def test_state_dict_of_one_process_alone(name: str, pair: Processes) -> None:
    pair(check_state_dict_of_one_process_alone, name)


def check_state_dict_of_one_process_alone(rank: int, name: str) -> None:
    """As programs do that save on rank 0: nobody is waited for."""
    model = sharded()
    optimizer = BUILDS[name](model.parameters())
    train(model, optimizer, range(CUT), rank, WORLD)
    assert collectives(optimizer.state_dict) == 0
    if rank == 0:
        assert optimizer.state_dict()["state"]
    dist.barrier()


@every_build
def test_parameters_sharded_after_construction(name: str, pair: Processes) -> None:
    pair(check_parameters_sharded_after_construction, name)


def check_parameters_sharded_after_construction(rank: int, name: str) -> None:
    """As Accelerate does it: the groups are given the new parameters. Nor is a step more work."""
    model = sharded()
    optimizer = BUILDS[name](model.parameters())
    train(model, optimizer, range(STEPS), rank, WORLD)

    other = make_model()
    swapped = BUILDS[name](other.parameters())
    fully_shard(other)
    swapped.param_groups[0]["params"] = list(other.parameters())
    train(other, swapped, range(STEPS), rank, WORLD)
    assert_same_bits(snapshot(other, swapped), snapshot(model, optimizer))
    assert operations(swapped.step) == operations(optimizer.step)


def test_averages_are_put_in_place_and_taken_out(pair: Processes) -> None:
    pair(check_averages_are_put_in_place_and_taken_out)


def check_averages_are_put_in_place_and_taken_out(rank: int) -> None:
    """As one process does it with the whole model, whose state_dict is the same."""
    alone, model = make_model(), sharded()
    single, optimizer = (BUILDS["QHM-averages"](m.parameters()) for m in (alone, model))
    train(alone, single, range(STEPS))
    train(model, optimizer, range(STEPS), rank, WORLD)
    before = own_copy(model.state_dict(), whole=True)
    with single.averaged(), optimizer.averaged():
        averages = own_copy(model.state_dict(), whole=True)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(averages[name], value, rtol=1e-5, atol=1e-6)
    found = optimizer.averaged_state_dict(model)
    assert_same_bits(own_copy(found, whole=True), averages)
    assert_same_bits(own_copy(model.state_dict(), whole=True), before)


@pytest.mark.parametrize("name", EQUALS)
def test_equals_torch(name: str, pair: Processes) -> None:
    pair(check_equals_torch, name)


def check_equals_torch(rank: int, name: str) -> None:
    snapshots = []
    for build in EQUALS[name]:
        model = sharded()
        optimizer = build(model.parameters())
        train(model, optimizer, range(STEPS), rank, WORLD)
        snapshots.append(snapshot(model, optimizer))
    assert_close(*snapshots)


def test_hypergradients_are_those_of_the_whole_model(pair: Processes) -> None:
    pair(check_hypergradients_are_those_of_the_whole_model)


def check_hypergradients_are_those_of_the_whole_model(rank: int) -> None:
    build = IN_FRAMEWORKS["HD"]
    model, whole = sharded(), make_model()
    optimizer, alone = build(model.parameters()), build(whole.parameters())
    train(model, optimizer, range(STEPS), rank, WORLD)
    train(whole, alone, range(STEPS))
    assert_close(snapshot(model, optimizer, whole=True), snapshot(whole, alone))
    here, expected = (each.diagnostics()["lr"] for each in (optimizer, alone))
    assert here == pytest.approx(expected, rel=1e-6)
    assert len(set(map(str, everyones(optimizer.diagnostics())))) == 1


@pytest.mark.parametrize("name", ["SGD", "YellowFin", "LAMB"])
def test_a_step_has_few_sums(name: str, pair: Processes) -> None:
    pair(check_a_step_has_few_sums, name)


def check_a_step_has_few_sums(rank: int, name: str) -> None:
    """LAMB has one for the clip and one for the norms. YellowFin has one for ‖g‖² and one for what
    the update has summed, so that any process can save the whole state alone."""
    model = sharded()
    optimizer = BUILDS[name](model.parameters())
    train(model, optimizer, range(CUT), rank, WORLD)
    assert collectives(optimizer.step) == {"SGD": 0, "YellowFin": 2, "LAMB": 2}[name]
    assert len(set(map(str, everyones(getattr(optimizer, "diagnostics", dict)())))) == 1
