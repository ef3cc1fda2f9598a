"""Accelerate: save_state and load_state go on bit for bit, alone, in two processes and sharded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from support.processes import WORLD, Processes
from support.resume import (
    BATCH,
    BY_PLACE,
    EQUALS,
    FEW,
    IN_FRAMEWORKS,
    OURS,
    STEPS,
    Build,
    Snapshot,
    assert_close,
    assert_resumes,
    make_model,
    samples,
    snapshot,
    train,
)
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

accelerate = pytest.importorskip(
    "accelerate", reason="accelerate is not installed; `make test-frameworks` installs it"
)

CLIP = 1.0
PARTS = 2  # of a batch, whose gradients are accumulated


@contextmanager
def plain(**options: Any) -> Iterator[Any]:
    """An Accelerator, which keeps what it knows in globals."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    with patch.dict(os.environ):
        yield accelerate.Accelerator(cpu=True, gradient_accumulation_steps=PARTS, **options)


@contextmanager
def among_two(rank: int, **options: Any) -> Iterator[Any]:
    """An Accelerator in a process group that is there already; its models become DDP's."""
    names = ("RANK", "LOCAL_RANK"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
    values = {name: str(value) for same, value in zip(names, (rank, WORLD)) for name in same}
    with patch.dict(os.environ, values | {"OMP_NUM_THREADS": "1"}), plain(**options) as accelerator:
        assert accelerator.num_processes == WORLD
        yield accelerator


@contextmanager
def sharded(rank: int, version: int = 2, **options: Any) -> Iterator[Any]:
    """An Accelerator that shards with FSDP.

    It offers that on GPUs and their like only, but what it does then is as good on CPUs: its state
    is told so.
    """
    with among_two(rank) as accelerator:
        plugin = accelerate.FullyShardedDataParallelPlugin(
            fsdp_version=version,
            auto_wrap_policy="size_based_wrap",
            min_num_params=10,
            cpu_ram_efficient_loading=False,
            **options,
        )
        for state in (accelerator.state._shared_state, accelerate.PartialState._shared_state):
            state["distributed_type"] = accelerate.DistributedType.FSDP
            state["fsdp_plugin"] = plugin
            state["device"] = torch.device("cpu")
        assert accelerator.is_fsdp2 == (version == 2)
        yield accelerator


def run(
    build: Build,
    *,
    until: int = STEPS,
    save: Path | None = None,
    load: Path | None = None,
    make_accelerator: Callable[..., Any] = plain,
    clip: float = CLIP,
    **options: Any,
) -> Snapshot:
    with make_accelerator(**options) as accelerator:
        model = make_model()
        optimizer = build(model.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0 / (1.0 + 0.1 * k))
        size = BATCH // PARTS // accelerator.num_processes
        data = DataLoader(TensorDataset(*samples()), batch_size=size)
        model, wrapped, data, schedule = accelerator.prepare(model, optimizer, data, schedule)
        if accelerator.is_fsdp2:
            assert all(isinstance(p, DTensor) for p in optimizer.param_groups[0]["params"])
        start = 0
        if load is not None:
            accelerator.load_state(str(load))
            start = int((load / "steps").read_text())
        parts = accelerator.skip_first_batches(data, start * PARTS)
        for number, (x, y) in enumerate(parts, start * PARTS):
            if number == until * PARTS:
                break
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.mse_loss(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                wrapped.step()
                schedule.step()
                wrapped.zero_grad()
        if save is not None:
            accelerator.save_state(str(save))
            (save / "steps").write_text(str(until))
        return snapshot(accelerator.unwrap_model(model), optimizer)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_resumes_bit_for_bit(name: str, precision: str, tmp_path: Path) -> None:
    assert_resumes(partial(run, mixed_precision=precision), IN_FRAMEWORKS[name], tmp_path)


@pytest.mark.parametrize("name", EQUALS)
def test_equals_torch(name: str) -> None:
    ours, theirs = (run(build, clip=0.05) for build in EQUALS[name])
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_resumes_in_two_processes(name: str, tmp_path: Path, pair: Processes) -> None:
    pair(check_resumes_in_two_processes, name, tmp_path)


def check_resumes_in_two_processes(rank: int, name: str, folder: Path) -> None:
    assert_resumes(
        partial(run, make_accelerator=partial(among_two, rank)), IN_FRAMEWORKS[name], folder
    )


@pytest.mark.parametrize("name", IN_FRAMEWORKS)
@pytest.mark.parametrize("form", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_resumes_with_fsdp2(name: str, form: str, tmp_path: Path, pair: Processes) -> None:
    pair(check_resumes_with_fsdp2, name, form, tmp_path)


def check_resumes_with_fsdp2(rank: int, name: str, form: str, folder: Path) -> None:
    make_accelerator = partial(sharded, rank, state_dict_type=form)
    assert_resumes(partial(run, make_accelerator=make_accelerator), IN_FRAMEWORKS[name], folder)


@pytest.mark.parametrize("name", FEW)
def test_equals_one_process_with_fsdp1(name: str, pair: Processes) -> None:
    pair(check_equals_one_process_with_fsdp1, name)


def check_equals_one_process_with_fsdp1(rank: int, name: str) -> None:
    """The model is wrapped after the optimizer was made, so the group is that of all processes.

    (No resume: what Accelerate loads of FSDP1's state on CPUs does not reach torch's SGD either.)
    """
    build = IN_FRAMEWORKS[name]
    alone = make_model(outputs=2)
    train(alone, build(alone.parameters()), range(STEPS))
    with sharded(rank, version=1, use_orig_params=True, sync_module_states=False) as accelerator:
        model = make_model(outputs=2)
        group = {"process_group": dist.group.WORLD} if name in OURS else {}
        model, wrapped = accelerator.prepare(model, build(model.parameters(), **group))
        train(model, wrapped, range(STEPS), rank, WORLD)
        with FSDP.summon_full_params(model):
            values = [p.detach().clone() for p in model.parameters()]
    loose = {"rtol": 1e-5, "atol": BY_PLACE.get(name, (1e-6,))[0]}
    torch.testing.assert_close(values, [p.detach() for p in alone.parameters()], **loose)


@pytest.mark.parametrize("name", IN_FRAMEWORKS)
def test_says_that_a_step_was_skipped(name: str) -> None:
    """Of a loss scale that overflows, as with float16, which Accelerate offers on GPUs only."""
    with plain():
        model = make_model()
        optimizer = IN_FRAMEWORKS[name](model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
        wrapped = accelerate.optimizer.AcceleratedOptimizer(optimizer, scaler=scaler)
        skipped = []
        for scale in (1.0, torch.inf, 1.0):
            before = [p.detach().clone() for p in model.parameters()]
            wrapped.zero_grad()
            scaler.scale(scale * model(torch.ones(1, 6)).sum()).backward()
            wrapped.step()
            skipped.append(wrapped.step_was_skipped)
            moved = not all(map(torch.equal, before, model.parameters()))
            assert moved != wrapped.step_was_skipped
        assert skipped == [False, True, False]
