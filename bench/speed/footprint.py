"""What an optimizer keeps and what a step costs besides time: state, allocations, launches."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.speed.clocks import Step

# The profiler announces every start and stop on stderr, whatever the level of torch's own log.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

_LONGEST_PROFILED = 0.1  # seconds; the profiler makes tens of thousands of launches take minutes


@dataclass(frozen=True)
class Footprint:
    """Memory and launches of one contestant.

    Attributes:
        state_bytes: bytes of all tensors it keeps between steps, scratch and tables included.
        allocations: tensor allocations in one step after the first ones.
        launches: kernels launched in one step; None on the CPU, if they cannot be seen, or if
            there are so many that looking at them takes long.
        kernels: seconds on the device by kernel, of that one step; empty where launches is None.
    """

    state_bytes: int
    allocations: int
    launches: int | None = None
    kernels: Mapping[str, float] = field(default_factory=dict)


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
        allocations, seconds = _cuda_allocations(step)
        kernels = _kernels(step) if seconds < _LONGEST_PROFILED else []
        by_name = dict.fromkeys((name for name, _ in kernels), 0.0)
        for name, kernel_seconds in kernels:
            by_name[name] += kernel_seconds
        # a machine may keep its counters from the profiler
        return step, Footprint(state_bytes, allocations, len(kernels) or None, by_name)
    return step, Footprint(state_bytes, _cpu_allocations(step))


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address and bytes of the memory of tensors, each once."""
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


def _cuda_allocations(step: Step) -> tuple[int, float]:
    """Allocations of a step, and the seconds it took to enqueue."""
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    start = perf_counter()
    step()
    seconds = perf_counter() - start
    return int(torch.cuda.memory_stats()["allocation.all.allocated"] - before), seconds


def _kernels(step: Step) -> list[tuple[str, float]]:
    """Name and seconds of every kernel of a step, in order."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    return [
        (event.name, event.time_range.elapsed_us() * 1e-6)
        for event in profiler.events()
        if event.device_type.name == "CUDA"
        and not event.is_user_annotation
        and not event.name.startswith("Mem")
    ]
