"""One size, all contestants: build them, run them in rounds, keep every sample."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from torch import Tensor

from bench.clocks import Clock, CpuClock, CudaClock, Step, captured
from bench.contestants import CONTESTANTS, Build, Contestant
from bench.footprint import Footprint, measure_footprint
from bench.result import COPY, Entry, Result
from bench.sizes import Size
from bench.workload import MovingGradients, make_parameters

WARMUP_STEPS = 3
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # far above any last-level cache


@dataclass(frozen=True)
class Plan:
    """Settings of a run that hold for every size."""

    device: torch.device
    backend: str
    contestants: tuple[str, ...]
    modes: tuple[str, ...]
    rounds: int | None = None

    def rounds_for(self, size: Size) -> int:
        """Large sizes are quiet enough for few rounds on the CPU; a GPU can afford many."""
        if self.rounds is not None:
            return self.rounds
        if self.device.type == "cuda":
            return 60
        return 15 if size.numel > 10_000_000 else 51


def race(size: Size, plan: Plan, on_round: Callable[[], None] = lambda: None) -> Result:
    """Measure every contestant of the plan at one size.

    All contestants share the parameters and gradients and own their state. Each round times every
    contestant once, and a large copy, so that drift of the machine falls on all alike and ratios
    can be taken within a round; in another order each time, so that nobody always follows the
    same neighbour, whose threads may still be spinning.

    Args:
        size: the parameter shapes.
        plan: device, contestants, modes and rounds.
        on_round: called after each round, for a progress bar.
    """
    params = make_parameters(size, plan.device)
    gradients = MovingGradients(params)
    copy_step, copy_bytes = _copy(plan.device)
    result = Result(size, copy_bytes)
    steps: dict[str, Step] = {COPY: copy_step}
    for name in plan.contestants:
        for entry, step, footprint in _prepare(CONTESTANTS[name], params, plan):
            result.entries[entry.key] = entry
            result.footprints[entry.key] = footprint
            steps[entry.key] = step

    clock: Clock = CudaClock(plan.device) if plan.device.type == "cuda" else CpuClock()
    repeats = {key: clock.repeats_for(step) for key, step in steps.items()}
    result.samples = {key: [] for key in steps}
    order = Random(0)
    with _no_garbage_collection():
        for _ in range(plan.rounds_for(size)):
            for key in order.sample(list(steps), len(steps)):
                moved = key != COPY and result.entries[key].mode == "moved"
                before = gradients.move if moved else _nothing
                result.samples[key].append(clock.sample(steps[key], repeats[key], before))
                gradients.restore()
            on_round()
    return result


def _nothing() -> None:
    pass


def _prepare(
    contestant: Contestant, params: list[Tensor], plan: Plan
) -> Iterator[tuple[Entry, Step, Footprint]]:
    """All modes of a contestant; a graph is captured from the optimizer that runs eagerly too."""
    built: dict[tuple[bool, bool], tuple[Step, Footprint]] = {}
    for entry in (Entry(contestant, mode) for mode in plan.modes):
        if not entry.possible:
            continue
        kind = (entry.capturable, entry.mode == "moved")
        if kind not in built:
            build = Build(plan.backend, entry.capturable)
            built[kind] = measure_footprint(
                partial(_warmed_up, contestant, build, params), params, plan.device
            )
        step, footprint = built[kind]
        yield entry, captured(step) if entry.mode == "graph" else step, footprint


def _warmed_up(contestant: Contestant, build: Build, params: list[Tensor]) -> Step:
    step = contestant.step_function(contestant.make(params, build), params)
    for _ in range(WARMUP_STEPS):
        step()
    return step


def _copy(device: torch.device) -> tuple[Step, int]:
    """A copy of a buffer no cache holds, and the bytes it reads and writes."""
    source = torch.ones(_COPY_BYTES[device.type] // 4, device=device)
    destination = torch.zeros_like(source)
    return lambda: destination.copy_(source), 2 * source.nbytes


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
