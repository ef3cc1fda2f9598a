"""ZeroRedundancyOptimizer: the state is divided, the step is that of one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.cases import assert_same_bits
from support.processes import WORLD, Processes, everyones
from support.resume import (
    BUILDS,
    BY_PLACE,
    CUT,
    EQUALS,
    OURS,
    STEPS,
    Build,
    Snapshot,
    assert_close,
    assert_resumes,
    decaying,
    make_model,
    snapshot,
    train,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import yfkernels

if not dist.is_gloo_available():
    pytest.skip("torch has no gloo here", allow_module_level=True)

from torch.distributed.optim import ZeroRedundancyOptimizer

every_build = pytest.mark.parametrize("name", BUILDS)


def divided(model: nn.Module, build: Any, **options: Any) -> Any:
    """The optimizer as programs make it, from its class and its options."""
    return ZeroRedundancyOptimizer(
        decaying(model), optimizer_class=build.func, **build.keywords, **options
    )


def run(
    build: Build,
    *,
    until: int = STEPS,
    save: Path | None = None,
    load: Path | None = None,
    rank: int,
    **options: Any,
) -> Snapshot:
    model = make_model()
    replica = DistributedDataParallel(model)
    optimizer = divided(model, build, **options)
    if load is not None:
        saved = torch.load(load / "last.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    train(replica, optimizer, range(0 if load is None else CUT, until), rank, WORLD)
    if save is not None:
        optimizer.consolidate_state_dict(to=0)
        if rank == 0:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(saved, save / "last.pt")
        dist.barrier()
    return snapshot(model, optimizer.optim)


@every_build
def test_resumes_bit_for_bit(name: str, tmp_path: Path, pair: Processes) -> None:
    pair(check_resumes_bit_for_bit, name, tmp_path)


def check_resumes_bit_for_bit(rank: int, name: str, folder: Path) -> None:
    assert_resumes(partial(run, rank=rank), BUILDS[name], folder)


def test_resumes_as_views_of_buckets(tmp_path: Path, pair: Processes) -> None:
    pair(check_resumes_as_views_of_buckets, tmp_path)


def check_resumes_as_views_of_buckets(rank: int, folder: Path) -> None:
    """The parameters are in one piece of memory, for one broadcast each."""
    views = partial(run, rank=rank, parameters_as_bucket_view=True)
    build = BUILDS["YellowFin"]
    assert_resumes(views, build, folder)
    assert_same_bits(views(build), run(build, rank=rank))


@every_build
def test_equals_one_process(name: str, pair: Processes) -> None:
    pair(check_equals_one_process, name)


def check_equals_one_process(rank: int, name: str) -> None:
    """And the processes agree on what they measured, to the last bit."""
    build = BUILDS[name]
    if name == "LAMB":
        build = partial(build, max_grad_norm=0.1)  # below every norm there is
    model = make_model()
    optimizer = build(decaying(model))
    train(model, optimizer, range(STEPS))
    expected = snapshot(model, optimizer)
    seen = run(build, rank=rank)
    atol, rel = BY_PLACE.get(name, (1e-6, 1e-4))
    assert_close(seen, expected, atol)
    assert seen["diagnostics"] == pytest.approx(expected["diagnostics"], rel=rel, nan_ok=True)
    assert_same_bits(*everyones(seen["diagnostics"]))
    assert_same_bits(*everyones(seen["parameters"]))


@pytest.mark.parametrize("name", EQUALS)
def test_equals_torch(name: str, pair: Processes) -> None:
    pair(check_equals_torch, name)


def check_equals_torch(rank: int, name: str) -> None:
    ours, theirs = EQUALS[name]
    model = make_model()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=ours)
    train(DistributedDataParallel(model), optimizer, range(STEPS), rank, WORLD)
    reference = make_model()
    train(reference, theirs(reference.parameters()), range(STEPS))
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_one_process_goes_on(name: str, tmp_path: Path, pair: Processes) -> None:
    """What two processes saved together is the state of the optimizer alone."""
    build = BUILDS[name]
    pair(check_saves, name, tmp_path)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    model = make_model(seed=1)
    optimizer = build(decaying(model))
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    now, in_the_end = torch.load(tmp_path / "expected.pt", weights_only=True)
    assert_same_bits(optimizer.diagnostics(), now["diagnostics"])
    train(model, optimizer, range(CUT, STEPS))
    if name not in BY_PLACE:
        assert_close(snapshot(model, optimizer), in_the_end)


def check_saves(rank: int, name: str, folder: Path) -> None:
    now = run(BUILDS[name], rank=rank, until=CUT, save=folder)
    in_the_end = run(BUILDS[name], rank=rank)
    if rank == 0:
        torch.save([now, in_the_end], folder / "expected.pt")


@pytest.mark.parametrize("name", ["SGD", *OURS])
def test_a_process_without_parameters(name: str, pair: Processes) -> None:
    pair(check_a_process_without_parameters, name)


def check_a_process_without_parameters(rank: int, name: str) -> None:
    build = BUILDS[name]
    torch.manual_seed(0)
    model = nn.Linear(6, 1, bias=False)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=build.func, **build.keywords
    )
    train(DistributedDataParallel(model), optimizer, range(STEPS), rank, WORLD)
    torch.manual_seed(0)
    alone = nn.Linear(6, 1, bias=False)
    train(alone, build(alone.parameters()), range(STEPS))
    torch.testing.assert_close(model.state_dict(), alone.state_dict(), rtol=1e-5, atol=1e-6)


def test_an_infinite_gradient_skips_the_step_everywhere(pair: Processes) -> None:
    pair(check_an_infinite_gradient_skips_the_step_everywhere)


def check_an_infinite_gradient_skips_the_step_everywhere(rank: int) -> None:
    """Though only one of the processes has the parameter that it belongs to."""
    model = make_model()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=yfkernels.YellowFin)
    train(DistributedDataParallel(model), optimizer, range(CUT), rank, WORLD)
    before = snapshot(model, optimizer.optim)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    next(model.parameters()).grad[0, 0] = torch.inf
    optimizer.step()
    after = snapshot(model, optimizer.optim)
    assert_same_bits(after["parameters"], before["parameters"])
    assert after["diagnostics"]["skipped_steps"] == 1
