"""Launches and kernel times of the entrants, looked at when the last race is over.

Once it has run, the profiler may stay attached to the process and slow every later launch
(pytorch#144455, pytorch#146604): no time is taken after it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

import torch

from bench.common.launches import RecordsLostError, work_of
from bench.speed.clocks import Step
from bench.speed.contestant import Build
from bench.speed.contestants import CONTESTANTS
from bench.speed.result import RaceResult
from bench.speed.settings import RaceSettings
from bench.speed.track import free_memory, warmed_up
from bench.speed.workload import make_parameters

_LONGEST_PROFILED = 0.1  # seconds; the profiler makes tens of thousands of launches take minutes
Kernels = list[tuple[str, float]]  # name and seconds, in their order


def profile_entrants(
    results: Sequence[RaceResult],
    settings: RaceSettings,
    end: float,
    on_result: Callable[[RaceResult], None],
) -> str | None:
    """Build every entrant once more, alone, and look into one of its steps.

    Args:
        results: get launches and kernel times in their footprints.
        settings: those of the races.
        end: when the time is up; ours, whose targets need it, come first at all sizes.
        on_result: called with each race that got some.

    Returns:
        Why some have none, or None.
    """
    reasons: dict[str, None] = {}  # each once
    for ours in (True, False):
        for result in results:
            names = dict.fromkeys(entrant.contestant.name for entrant in result.entrants.values())
            chosen = [name for name in names if CONTESTANTS[name].ours == ours]
            if settings.now() >= end:
                reasons["no time"] = None
            elif chosen:
                reasons.update(dict.fromkeys(_profile_race(result, chosen, settings, end)))
                on_result(result)
    return "; ".join(reasons) or None


def _profile_race(
    result: RaceResult, names: Sequence[str], settings: RaceSettings, end: float
) -> list[str]:
    """One race's; returns why some have none."""
    free_memory(settings.device)
    params = make_parameters(result.size, settings.device, result.dtype)
    reasons: list[str] = []
    for name in names:
        # moved is eager and a graph is capturable, as far as the profiler can tell
        kinds: dict[bool, list[str]] = {}
        for key, entrant in result.entrants.items():
            if entrant.contestant.name == name:
                kinds.setdefault(entrant.capturable, []).append(key)
        for capturable, keys in kinds.items():
            if settings.now() >= end:
                return [*reasons, "no time"]
            try:
                build = Build(settings.backend, capturable)
                kernels = _kernels_of(warmed_up(CONTESTANTS[name], build, params))
            except RecordsLostError as error:
                reasons.append(str(error))
            except Exception as error:
                traceback.print_exc()  # what was measured stands all the same
                reasons.append(f"{name}: {type(error).__name__}")
            else:
                for key in keys:
                    _note(result, key, kernels)
            free_memory(settings.device)
    return reasons


def _kernels_of(step: Step) -> Kernels:
    """Every kernel of a step; none if there are so many that looking at them takes long."""
    torch.cuda.synchronize()
    start = perf_counter()
    step()
    if perf_counter() - start >= _LONGEST_PROFILED:
        return []
    return [(work.name, work.seconds) for work in work_of(step) if work.is_kernel]


def _note(result: RaceResult, key: str, kernels: Kernels) -> None:
    by_name = dict.fromkeys((name for name, _ in kernels), 0.0)
    for name, seconds in kernels:
        by_name[name] += seconds
    footprint = result.footprints[key]
    result.footprints[key] = replace(footprint, launches=len(kernels) or None, kernels=by_name)
