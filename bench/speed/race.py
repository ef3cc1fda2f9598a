"""One size, all contestants: build them, run them in rounds, keep every sample."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bench.speed.contestants import CONTESTANTS
from bench.speed.one_by_one import run_one_by_one
from bench.speed.result import RaceResult
from bench.speed.settings import RaceSettings
from bench.speed.sizes import Size
from bench.speed.together import run_together
from bench.speed.track import Track, free_memory, make_copy
from bench.speed.workload import make_parameters


def race(
    size: Size,
    settings: RaceSettings,
    dtype: torch.dtype = torch.float32,
    seconds: float = math.inf,
    on_round: Callable[[], None] = lambda: None,
    on_contestant: Callable[[RaceResult], None] = lambda result: None,
) -> RaceResult:
    """Measure every contestant at one size.

    All contestants share the parameters and gradients and own their state. Each round times every
    contestant once, and a large copy, so that drift of the machine falls on all alike and ratios
    can be taken within a round; in another order each time, so that nobody always follows the
    same neighbor, whose threads may still be spinning. Slow ones take part in the first rounds
    only. At a size that leaves no room for all states, contestants are measured one by one. One
    that raises an exception is noted, and the others go on.

    Args:
        size: the parameter shapes.
        settings: device, contestants, modes and rounds.
        dtype: of the parameters and gradients.
        seconds: time there is. If it is too little for all rounds, the slowest contestants that no
            target needs are left out; if that is not enough, the last rounds are.
        on_round: called after each round, for a progress bar.
        on_contestant: called after each contestant with what there is by then, where they are
            measured one by one.
    """
    end = settings.now() + seconds
    free_memory(settings.device)
    params = make_parameters(size, settings.device, dtype)
    copy_step, copy_bytes = make_copy(settings.device)
    result = RaceResult(size, copy_bytes, dtype, planned_rounds=settings.rounds_for(size))
    names = [n for n in settings.contestants_for(size) if CONTESTANTS[n].why_absent is None]
    track = Track(params, settings, result, copy_step, end, on_round)
    with _no_garbage_collection():
        if settings.one_by_one(size):
            run_one_by_one(names, track, on_contestant)
        else:
            run_together(names, track)
    return result


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
