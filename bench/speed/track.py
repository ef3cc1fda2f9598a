"""What both ways to run a race share: the tensors, the copy beside them, entrants ready to step."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from bench.speed.clocks import Clock, Step, captured
from bench.speed.contestant import Build, RaceContestant
from bench.speed.contestants import CONTESTANTS
from bench.speed.footprint import Footprint, measure_footprint
from bench.speed.result import Entrant, RaceResult
from bench.speed.settings import RaceSettings
from bench.speed.workload import MovingGradients

WARMUP_STEPS = 3
FEWEST_ROUNDS = 2  # quartiles need them
NO_MEMORY = "out of memory"
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # far above any last-level cache


@dataclass(frozen=True)
class Track:
    """Where a race is run.

    Attributes:
        params: the parameters, whose gradients stay the same.
        settings: device, modes, rounds.
        result: gets what is measured.
        copy_step: the copy that is timed beside the entrants.
        end: when the time is up.
        on_round: called after each round.
    """

    params: list[Tensor]
    settings: RaceSettings
    result: RaceResult
    copy_step: Step
    end: float
    on_round: Callable[[], None]

    @cached_property
    def clock(self) -> Clock:
        """What times the steps."""
        return self.settings.clock()

    @cached_property
    def gradients(self) -> MovingGradients:
        """The gradients, which can be moved."""
        return MovingGradients(self.params)

    def before_step(self, entrant: Entrant) -> Step:
        """What is done before each step of an entrant, untimed."""
        return self.gradients.move if entrant.mode == "moved" else nothing

    def seconds_left(self) -> float:
        """Until the time is up."""
        return self.end - self.settings.now()

    def prepared(self, name: str) -> Iterator[tuple[Entrant, Step, Footprint]]:
        """A contestant in all its modes; a graph is captured from the optimizer of an eager one."""
        contestant = CONTESTANTS[name]
        built: dict[tuple[bool, bool], tuple[Step, Footprint]] = {}
        for mode in self.settings.modes_for(self.result.size):
            entrant = Entrant(contestant, mode)
            if not entrant.possible:
                continue
            kind = (entrant.capturable, mode == "moved")
            if kind not in built:
                build = Build(self.settings.backend, entrant.capturable)
                built[kind] = measure_footprint(
                    partial(warmed_up, contestant, build, self.params),
                    self.params,
                    self.settings.device,
                )
            step, footprint = built[kind]
            yield entrant, captured(step) if mode == "graph" else step, footprint

    @contextmanager
    def failures_of(self, name: str) -> Iterator[None]:
        """Notes an exception as this contestant's, so that the others are measured all the same."""
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            self.result.left_out[name] = NO_MEMORY
        except Exception as error:
            traceback.print_exc()  # into the log; the result has its last line
            self.result.failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]


def warmed_up(contestant: RaceContestant, build: Build, params: list[Tensor]) -> Step:
    """Build an optimizer and take its first steps."""
    step = contestant.step_function(contestant.make(params, build), params)
    for _ in range(WARMUP_STEPS):
        step()
    return step


def nothing() -> None:
    """Nothing is to be done before a step."""


def make_copy(device: torch.device) -> tuple[Step, int]:
    """A copy of a buffer no cache holds, and the bytes it reads and writes."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    destination = torch.zeros_like(source)
    return lambda: destination.copy_(source), 2 * source.nbytes


def free_memory(device: torch.device) -> None:
    """Give back what ran before: what comes next may need all there is."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
