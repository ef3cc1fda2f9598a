"""What an optimizer keeps and what a step costs besides time: state, allocations, launches."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.clocks import Step

# The profiler announces every start and stop on stderr, whatever the level of torch's own log.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


@dataclass(frozen=True)
class Footprint:
    """Memory and launches of one contestant.

    Attributes:
        state_bytes: bytes of all tensors it keeps between steps, scratch and tables included.
        allocations: tensor allocations in one step after the first ones.
        launches: kernels launched in one step; None on the CPU, or if they cannot be seen.
    """

    state_bytes: int
    allocations: int
    launches: int | None = None


def measure_footprint(
    build: Callable[[], Step], params: list[Tensor], device: torch.device
) -> tuple[Step, Footprint]:
    """Build an optimizer, see what it keeps, and look into one step.

    Args:
        build: builds the optimizer, takes its first steps, returns its step function.
        params: the parameters it works on; they and their gradients are not its state.
        device: where they are.
    """
    gc.freeze()  # the collector then lists only what is made from here on
    step = build()
    gc.collect()
    storages = _storages(item for item in gc.get_objects() if issubclass(type(item), Tensor))
    gc.unfreeze()
    shared = _storages([*params, *(param.grad for param in params if param.grad is not None)])
    state_bytes = sum(storages[address] for address in storages.keys() - shared.keys())

    if device.type == "cuda":
        return step, Footprint(state_bytes, _cuda_allocations(step), _launches(step))
    return step, Footprint(state_bytes, _cpu_allocations(step))


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address and bytes of the memory behind tensors, each once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _cpu_allocations(step: Step) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    # The public event list nets out what one operator allocates and frees; the raw one does not.
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    return sum(event.name() == "[memory]" and event.nbytes() > 0 for event in events)


def _cuda_allocations(step: Step) -> int:
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    step()
    return int(torch.cuda.memory_stats()["allocation.all.allocated"] - before)


def _launches(step: Step) -> int | None:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    kernels = [
        event
        for event in profiler.events()
        if event.device_type.name == "CUDA"
        and not event.is_user_annotation
        and not event.name.startswith("Mem")
    ]
    return len(kernels) or None  # a machine may keep its counters from the profiler
