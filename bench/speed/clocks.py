"""Timing one step: wall clock on the CPU, events and enqueue time apart on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor

Step = Callable[[], object]


@dataclass(frozen=True)
class Sample:
    """Seconds per step, averaged over `repeats` steps.

    Attributes:
        host: time until the call returned.
        device: time between two events around it; None where the host does the work.
        repeats: number of steps the average is taken over.
    """

    host: float
    device: float | None = None
    repeats: int = 1

    @property
    def seconds(self) -> float:
        """Time that the work itself took."""
        return self.host if self.device is None else self.device


class Clock(Protocol):
    """Takes one sample of a step."""

    def repeats_for(self, step: Step) -> int:
        """Number of steps that one sample should average over."""

    def sample(self, step: Step, repeats: int, before: Step) -> Sample:
        """Time `repeats` steps, and do not time what is to be done before each."""


class CpuClock:
    """Averages short steps over a window, which finds their tensors warm in cache.

    A step as long as the window is taken once, from a cache that holds nothing of it: else it
    would find what the contestant before it happened to leave, or have to write that back.
    """

    _WINDOW = 5e-3
    _FLUSHED_BYTES = 2**28  # far above any last-level cache

    def __init__(self) -> None:
        self._flushed = torch.ones(self._FLUSHED_BYTES // 4)

    def repeats_for(self, step: Step) -> int:
        step()
        start = perf_counter()
        step()
        return max(1, round(self._WINDOW / (perf_counter() - start)))

    def sample(self, step: Step, repeats: int, before: Step) -> Sample:
        if repeats > 1:
            step()  # takes back the cache lines that the previous contestant displaced
        else:
            self._flushed.sum()
        elapsed = 0.0
        for _ in range(repeats):
            before()
            start = perf_counter()
            step()
            elapsed += perf_counter() - start
        return Sample(elapsed / repeats, repeats=repeats)


class CudaClock:
    """Measures the host and the device in separate passes, each from a cold L2.

    The device pass first gives the GPU something to wait on, so that the step is enqueued in full
    before the first event is reached: gaps that the host causes are then no part of device time.
    Only a step that synchronizes keeps its gaps, and it should, for nothing can hide them.
    """

    _SPIN_CYCLES_PER_SECOND = 2e9  # no less than the boost clock, so that the spin is long enough
    _LONGEST_SPIN = 0.2

    def __init__(self, device: torch.device) -> None:
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self._flushed: Tensor = torch.empty(4 * l2_bytes, dtype=torch.int8, device=device)

    def repeats_for(self, step: Step) -> int:
        return 1

    def sample(self, step: Step, repeats: int, before: Step) -> Sample:
        before()
        host = self._host_seconds(step)
        before()
        return Sample(host, self._device_seconds(step, host))

    def _host_seconds(self, step: Step) -> float:
        self._flushed.zero_()
        torch.cuda.synchronize()
        start = perf_counter()
        step()
        return perf_counter() - start

    def _device_seconds(self, step: Step, host_seconds: float) -> float:
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        spin = min(2.0 * host_seconds, self._LONGEST_SPIN)
        torch.cuda.synchronize()
        self._flushed.zero_()
        torch.cuda._sleep(int(spin * self._SPIN_CYCLES_PER_SECOND))
        begin.record()
        step()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3


@dataclass(frozen=True)
class GraphReplay:
    """A step as a CUDA graph.

    Attributes:
        graph: what was captured.
        step: the step it was captured from; it owns the tensors that the graph works on.
    """

    graph: torch.cuda.CUDAGraph
    step: Step

    def __call__(self) -> None:
        self.graph.replay()


def captured(step: Step, warmup: int = 3) -> GraphReplay:
    """Capture one step in a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warmup):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return GraphReplay(graph, step)
