"""One size, all contestants: build them, run them in rounds, keep every sample."""

from __future__ import annotations

import gc
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from time import perf_counter

import torch
from torch import Tensor

from bench.speed.clocks import Clock, CpuClock, CudaClock, Sample, Step, captured
from bench.speed.contestants import CONTESTANTS, Build, Contestant, default_contestants
from bench.speed.footprint import Footprint, measure_footprint
from bench.speed.result import COPY, Entry, Result
from bench.speed.sizes import Size
from bench.speed.workload import MovingGradients, make_parameters

WARMUP_STEPS = 3
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # far above any last-level cache
CUDA_ROUNDS = 60
_NO_MEMORY = "out of memory"
_FEWEST_ROUNDS = 2  # quartiles need them
# A contestant that is not essential may take so many seconds of a race, or so many rounds.
_LONGEST, _ROUNDS_OF_THE_SLOW = 4.0, 5
# From here on a state for every mode does not fit, and the host's time is nothing.
_LARGE = {"cpu": 100_000_000, "cuda": 500_000_000}
# From here on all contestants do not fit at once: a GPU's memory is that of the smallest there are.
_CROWDED = {"cpu": math.inf, "cuda": 200_000_000}


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
            return CUDA_ROUNDS
        return 15 if size.numel > 10_000_000 else 51

    def modes_for(self, size: Size) -> tuple[str, ...]:
        """Every mode, but for a model that nearly fills the memory."""
        return ("eager",) if size.numel >= _LARGE[self.device.type] else self.modes

    def one_by_one(self, size: Size) -> bool:
        """Whether the states of all contestants do not fit the memory at once."""
        return size.numel >= _CROWDED[self.device.type]

    def clock(self) -> Clock:
        """What times a step on this device."""
        return CudaClock(self.device) if self.device.type == "cuda" else CpuClock()


def race(
    size: Size,
    plan: Plan,
    dtype: torch.dtype = torch.float32,
    seconds: float = math.inf,
    on_round: Callable[[], None] = lambda: None,
    on_contestant: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Measure every contestant of the plan at one size.

    All contestants share the parameters and gradients and own their state. Each round times every
    contestant once, and a large copy, so that drift of the machine falls on all alike and ratios
    can be taken within a round; in another order each time, so that nobody always follows the
    same neighbour, whose threads may still be spinning. Slow ones take part in the first rounds
    only. At a size that leaves no room for all states, contestants are measured one by one. One
    that raises an exception is noted, and the others go on.

    Args:
        size: the parameter shapes.
        plan: device, contestants, modes and rounds.
        dtype: of the parameters and gradients.
        seconds: time there is. If it is too little for all rounds, the slowest contestants that no
            target needs are left out; if that is not enough, the last rounds are.
        on_round: called after each round, for a progress bar.
        on_contestant: called after each contestant with what there is by then, where they are
            measured one by one.
    """
    end = plan.now() + seconds
    _free_memory(plan.device)
    params = make_parameters(size, plan.device, dtype)
    copy_step, copy_bytes = _copy(plan.device)
    result = Result(size, copy_bytes, dtype, planned_rounds=plan.rounds_for(size))
    names = [n for n in plan.contestants_for(size) if CONTESTANTS[n].why_absent is None]
    with _no_garbage_collection():
        if plan.one_by_one(size):
            _one_by_one(names, params, plan, result, copy_step, end, on_round, on_contestant)
        else:
            _together(names, params, plan, result, copy_step, end, on_round)
    return result


def _together(
    names: list[str],
    params: list[Tensor],
    plan: Plan,
    result: Result,
    copy_step: Step,
    end: float,
    on_round: Callable[[], None],
) -> None:
    gradients = MovingGradients(params)
    clock = plan.clock()
    steps: dict[str, Step] = {COPY: copy_step}
    repeats = {COPY: clock.repeats_for(copy_step)}
    costs = {COPY: _cost(copy_step, repeats[COPY], clock, plan.now)}
    for name in names:
        with _failures_of(name, result):
            for entry, step, footprint in _prepare(CONTESTANTS[name], params, plan, result.size):
                many = clock.repeats_for(step)
                costs[entry.key] = _cost(step, many, clock, plan.now)
                result.entries[entry.key], result.footprints[entry.key] = entry, footprint
                steps[entry.key], repeats[entry.key] = step, many
    _forget_failed(result, steps)
    costs = {key: costs[key] for key in steps}
    rounds = {key: _rounds(result, key, cost) for key, cost in costs.items()}
    needed = {key: cost * rounds[key] for key, cost in costs.items()}
    for key in _too_slow(needed, result, end - plan.now()):
        result.left_out[key] = f"{rounds[key]} x {costs[key]:.2g} s was too long"
        del steps[key], result.entries[key], result.footprints[key]

    result.samples = {key: [] for key in steps}
    order = Random(0)
    for done in range(result.planned_rounds):
        if done >= _FEWEST_ROUNDS and plan.now() >= end:
            break
        running = [key for key in steps if done < rounds[key]]
        for key in order.sample(running, len(running)):
            if key not in steps:  # failed in this round, in another mode
                continue
            if key == COPY:
                result.samples[key].append(clock.sample(copy_step, repeats[key], _nothing))
                continue
            moved = result.entries[key].mode == "moved"
            with _failures_of(result.entries[key].contestant.name, result):
                before = gradients.move if moved else _nothing
                result.samples[key].append(clock.sample(steps[key], repeats[key], before))
            if moved:
                gradients.restore()
            _forget_failed(result, steps)
        on_round()


def _one_by_one(
    names: list[str],
    params: list[Tensor],
    plan: Plan,
    result: Result,
    copy_step: Step,
    end: float,
    on_round: Callable[[], None],
    on_contestant: Callable[[Result], None],
) -> None:
    """Each is built, measured in turns with the copy, and freed before the next is built."""
    gradients = MovingGradients(params)
    clock = plan.clock()
    many = clock.repeats_for(copy_step)
    result.samples[COPY] = [clock.sample(copy_step, many, _nothing) for _ in range(_FEWEST_ROUNDS)]
    # those that the targets need first: time may run out
    order = sorted(names, key=lambda name: not CONTESTANTS[name].essential)
    for number, name in enumerate(order):
        share = (end - plan.now()) / (len(order) - number)
        if share <= 0.0 and not CONTESTANTS[name].essential:
            result.left_out[name] = "no time"
            continue
        stop = plan.now() + share
        with _failures_of(name, result):
            for entry, step, footprint in _prepare(CONTESTANTS[name], params, plan, result.size):
                before = gradients.move if entry.mode == "moved" else _nothing
                repeats = clock.repeats_for(step)
                own: list[Sample] = []
                copies: list[Sample] = []
                for done in range(result.planned_rounds):
                    if done >= _FEWEST_ROUNDS and plan.now() >= stop:
                        break
                    copies.append(clock.sample(copy_step, many, _nothing))
                    own.append(clock.sample(step, repeats, before))
                    on_round()
                result.entries[entry.key], result.footprints[entry.key] = entry, footprint
                result.samples[entry.key], result.beside[entry.key] = own, copies
                result.samples[COPY] += copies
        gradients.restore()
        step = _nothing  # the last that held the optimizer
        _free_memory(plan.device)
        if result.entries:
            on_contestant(result)


def _nothing() -> None:
    pass


def _one_line(error: Exception) -> str:
    """An error's type and the first line of its text."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextmanager
def _failures_of(name: str, result: Result) -> Iterator[None]:
    """Notes an exception as this contestant's, so that the others are measured all the same."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        result.left_out[name] = _NO_MEMORY
    except Exception as error:
        traceback.print_exc()  # into the log; the result has its last line
        result.failed[name] = _one_line(error)


def _forget_failed(result: Result, steps: dict[str, Step]) -> None:
    """Takes the entries of those out that cannot go on, in whichever mode it was."""
    full = {name for name, reason in result.left_out.items() if reason == _NO_MEMORY}
    gone = full | result.failed.keys()
    for key, entry in list(result.entries.items()):
        if entry.contestant.name in gone:
            for kept in (result.entries, result.footprints, result.samples, steps):
                kept.pop(key, None)


def _cost(step: Step, repeats: int, clock: Clock, now: Callable[[], float]) -> float:
    """Seconds that one sample costs; serves as a last warm-up too."""
    start = now()
    clock.sample(step, repeats, _nothing)
    return now() - start


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
    contestant: Contestant, params: list[Tensor], plan: Plan, size: Size
) -> Iterator[tuple[Entry, Step, Footprint]]:
    """All modes of a contestant; a graph is captured from the optimizer that runs eagerly too."""
    built: dict[tuple[bool, bool], tuple[Step, Footprint]] = {}
    for entry in (Entry(contestant, mode) for mode in plan.modes_for(size)):
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
