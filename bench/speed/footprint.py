"""What an optimizer keeps and what a step costs besides time: state, allocations, launches."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.speed.clocks import Step


@dataclass(frozen=True)
class Footprint:
    """Memory and launches of one contestant.

    Attributes:
        state_bytes: bytes of all tensors it keeps between steps, scratch and tables included.
        allocations: tensor allocations in one step after the first ones.
        launches: kernels launched in one step, which profiled.py counts when the races are over;
            None on the CPU, if they cannot be seen, or if there are so many that looking at them
            takes long.
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

    allocations = _cuda_allocations if device.type == "cuda" else _cpu_allocations
    return step, Footprint(state_bytes, allocations(step))


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


def _cuda_allocations(step: Step) -> int:
    """The allocator's own count: the profiler would slow what is timed after it."""
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    step()
    return int(torch.cuda.memory_stats()["allocation.all.allocated"] - before)
