"""Stages of a pipeline: each process has layers of its own, the step is that of one process."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from support.cases import assert_same_bits
from support.processes import Processes, everyones
from support.resume import BUILDS, BY_PLACE, CUT, OURS, STEPS, batch, make_model, train
from torch import nn

from yfkernels import YellowFin

if not dist.is_gloo_available():
    pytest.skip("torch has no gloo here", allow_module_level=True)


def set_gradients(stage: nn.Module, rank: int, step: int) -> None:
    """Those that the whole model has, made of what each process has of it."""
    whole = make_model()
    for layer, values in zip((whole[0], whole[2]), everyones(stage.state_dict())):
        layer.load_state_dict(values)
    x, y = batch(step)
    nn.functional.mse_loss(whole(x), y).backward()
    for p, q in zip(stage.parameters(), whole[2 * rank].parameters()):
        p.grad = q.grad


@pytest.mark.parametrize("name", OURS)
def test_equals_one_process(name: str, pair: Processes) -> None:
    pair(check_equals_one_process, name)


def check_equals_one_process(rank: int, name: str) -> None:
    build = OURS[name]
    if name == "LAMB":
        build = partial(build, max_grad_norm=0.1)  # below every norm there is
    alone = make_model()
    expected = build(alone.parameters())
    train(alone, expected, range(STEPS))
    stage = make_model()[2 * rank]
    optimizer = build(stage.parameters(), process_group=dist.group.WORLD)
    for step in range(STEPS):
        set_gradients(stage, rank, step)
        optimizer.step()
    assert_same_bits(*everyones(optimizer.diagnostics()))
    if name not in BY_PLACE:
        torch.testing.assert_close(
            stage.state_dict(), alone[2 * rank].state_dict(), rtol=1e-5, atol=1e-6
        )
        near = pytest.approx(expected.diagnostics(), rel=1e-4, nan_ok=True)
        assert optimizer.diagnostics() == near


@pytest.mark.parametrize("name", OURS)
def test_resumes_bit_for_bit(name: str, pair: Processes) -> None:
    pair(check_resumes_bit_for_bit, name)


def check_resumes_bit_for_bit(rank: int, name: str) -> None:
    """From a state_dict of each process; and in one step a process has no gradient at all."""
    build = partial(BUILDS[name], process_group=dist.group.WORLD)
    stage = make_model()[2 * rank]
    optimizer = build(stage.parameters())
    for step in range(CUT):
        set_gradients(stage, rank, step)
        if rank == 1 and step == 1:
            stage.zero_grad()
        optimizer.step()
    other = copy.deepcopy(stage)
    resumed = build(other.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(CUT, STEPS):
        for model, each in ((stage, optimizer), (other, resumed)):
            set_gradients(model, rank, step)
            each.step()
    assert_same_bits(other.state_dict(), stage.state_dict())
    assert_same_bits(resumed.state_dict(), optimizer.state_dict())
    assert_same_bits(*everyones(optimizer.diagnostics()))


@pytest.mark.parametrize("equal", [True, False])
def test_groups_that_are_tuned_for_themselves(equal: bool, pair: Processes) -> None:
    pair(check_groups, equal)


def check_groups(rank: int, equal: bool) -> None:
    """Weights and biases, of all stages; one process more or less is an error on both."""
    layer = make_model()[2 * rank]
    groups = [{"params": [layer.weight]}, {"params": [layer.bias]}]
    options = {"tune": "group", "process_group": dist.group.WORLD}
    if not equal and rank:
        groups = [{"params": layer.parameters()}]
    optimizer = YellowFin(groups, **options)
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    if not equal:
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(RuntimeError, match=f"this process has {2 - rank} parameter groups"):
            optimizer.step()
        assert_same_bits(layer.state_dict(), before)
        return
    optimizer.step()
    found = [optimizer.diagnostics(group) for group in range(2)]
    assert_same_bits(*everyones(found))
    counts = everyones([p.numel() for p in layer.parameters()])
    norms = [sum(both) ** 0.5 for both in zip(*counts)]
    assert [each["grad_norm"] for each in found] == pytest.approx(norms)
