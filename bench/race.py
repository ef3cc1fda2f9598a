"""One size, all contestants: build them, run them in rounds, keep every sample."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from time import perf_counter

import torch
from torch import Tensor

from bench.clocks import Clock, CpuClock, CudaClock, Step, captured
from bench.contestants import CONTESTANTS, Build, Contestant, default_contestants
from bench.footprint import Footprint, measure_footprint
from bench.result import COPY, Entry, Result
from bench.sizes import Size
from bench.workload import MovingGradients, make_parameters

WARMUP_STEPS = 3
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # far above any last-level cache
_CUDA_ROUNDS = 60
_FEWEST_ROUNDS = 2  # quartiles need them
# A contestant that is not essential may take so many seconds of a race, or so many rounds.
_LONGEST, _ROUNDS_OF_THE_SLOW = 4.0, 5
# From here on a state for every mode does not fit, and the host's time is nothing.
_LARGE = {"cpu": 100_000_000, "cuda": 500_000_000}


@dataclass(frozen=True)
class Plan:
    """Settings of a run that hold for every size.

    Attributes:
        contestants: who takes part; None for those that suit the size.
        now: the time in seconds, against which a race's share of time is held.
    """

    device: torch.device
    backend: str
    contestants: tuple[str, ...] | None
    modes: tuple[str, ...]
    rounds: int | None = None
    now: Callable[[], float] = perf_counter

    def contestants_for(self, size: Size) -> tuple[str, ...]:
        """Who is to take part, whether or not it can on this machine."""
        if self.contestants is not None:
            return self.contestants
        return default_contestants(self.device.type, size.name)

    def rounds_for(self, size: Size) -> int:
        """Large sizes are quiet enough for few rounds on the CPU; a GPU can afford many."""
        if self.rounds is not None:
            return self.rounds
        if self.device.type == "cuda":
            return _CUDA_ROUNDS
        return 15 if size.numel > 10_000_000 else 51

    def modes_for(self, size: Size) -> tuple[str, ...]:
        """Every mode, but for a model that nearly fills the memory."""
        return ("eager",) if size.numel >= _LARGE[self.device.type] else self.modes

    def clock(self) -> Clock:
        """What times a step on this device."""
        return CudaClock(self.device) if self.device.type == "cuda" else CpuClock()


def race(
    size: Size,
    plan: Plan,
    dtype: torch.dtype = torch.float32,
    seconds: float = math.inf,
    on_round: Callable[[], None] = lambda: None,
) -> Result:
    """Measure every contestant of the plan at one size.

    All contestants share the parameters and gradients and own their state. Each round times every
    contestant once, and a large copy, so that drift of the machine falls on all alike and ratios
    can be taken within a round; in another order each time, so that nobody always follows the
    same neighbour, whose threads may still be spinning. Slow ones take part in the first rounds
    only.

    Args:
        size: the parameter shapes.
        plan: device, contestants, modes and rounds.
        dtype: of the parameters and gradients.
        seconds: time there is. If it is too little for all rounds, the slowest contestants that no
            target needs are left out; if that is not enough, the last rounds are.
        on_round: called after each round, for a progress bar.
    """
    end = plan.now() + seconds
    _free_memory(plan.device)
    params = make_parameters(size, plan.device, dtype)
    gradients = MovingGradients(params)
    copy_step, copy_bytes = _copy(plan.device)
    result = Result(size, copy_bytes, dtype, planned_rounds=plan.rounds_for(size))
    steps: dict[str, Step] = {COPY: copy_step}
    for name in plan.contestants_for(size):
        if CONTESTANTS[name].why_absent is not None:
            continue
        try:
            prepared = list(_prepare(CONTESTANTS[name], params, plan, plan.modes_for(size)))
        except torch.cuda.OutOfMemoryError:
            result.left_out[name] = "out of memory"
        except Exception as error:
            if CONTESTANTS[name].package is None:
                raise
            result.left_out[name] = _one_line(error)
        else:
            for entry, step, footprint in prepared:
                result.entries[entry.key] = entry
                result.footprints[entry.key] = footprint
                steps[entry.key] = step

    clock = plan.clock()
    repeats = {key: clock.repeats_for(step) for key, step in steps.items()}
    costs = _costs(steps, repeats, clock, plan.now)
    rounds = {key: _rounds(result, key, cost) for key, cost in costs.items()}
    needed = {key: cost * rounds[key] for key, cost in costs.items()}
    for key in _too_slow(needed, result, end - plan.now()):
        result.left_out[key] = f"{rounds[key]} x {costs[key]:.2g} s was too long"
        del steps[key], result.entries[key], result.footprints[key]

    result.samples = {key: [] for key in steps}
    order = Random(0)
    with _no_garbage_collection():
        for done in range(result.planned_rounds):
            if done >= _FEWEST_ROUNDS and plan.now() >= end:
                break
            running = [key for key in steps if done < rounds[key]]
            for key in order.sample(running, len(running)):
                moved = key != COPY and result.entries[key].mode == "moved"
                before = gradients.move if moved else _nothing
                result.samples[key].append(clock.sample(steps[key], repeats[key], before))
                if moved:
                    gradients.restore()
            on_round()
    return result


def _nothing() -> None:
    pass


def _one_line(error: Exception) -> str:
    """An error's type and the first line of its text."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _costs(
    steps: Mapping[str, Step], repeats: Mapping[str, int], clock: Clock, now: Callable[[], float]
) -> dict[str, float]:
    """Seconds that one sample of each costs; serves as a last warm-up too."""
    costs = {}
    for key, step in steps.items():
        start = now()
        clock.sample(step, repeats[key], _nothing)
        costs[key] = now() - start
    return costs


def _rounds(result: Result, key: str, cost: float) -> int:
    """Rounds of an entry, one of which takes so many seconds."""
    if key == COPY or result.entries[key].contestant.essential:
        return result.planned_rounds
    return min(result.planned_rounds, max(_ROUNDS_OF_THE_SLOW, int(_LONGEST / cost)))


def _too_slow(needed: Mapping[str, float], result: Result, seconds: float) -> list[str]:
    """Entries to leave out, longest first, until all rounds of the others fit into the time."""
    dispensable = [key for key, entry in result.entries.items() if not entry.contestant.essential]
    excess = sum(needed.values()) - seconds
    dropped = []
    for key in sorted(dispensable, key=needed.__getitem__, reverse=True):
        if excess <= 0.0:
            break
        dropped.append(key)
        excess -= needed[key]
    return dropped


def _prepare(
    contestant: Contestant, params: list[Tensor], plan: Plan, modes: tuple[str, ...]
) -> Iterator[tuple[Entry, Step, Footprint]]:
    """All modes of a contestant; a graph is captured from the optimizer that runs eagerly too."""
    built: dict[tuple[bool, bool], tuple[Step, Footprint]] = {}
    for entry in (Entry(contestant, mode) for mode in modes):
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


def _free_memory(device: torch.device) -> None:
    """Give back what the race before this one held: the next may need all there is."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
