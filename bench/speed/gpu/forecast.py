"""What `make gpu` would do, and guesses of how long that takes on an H100: nothing is measured."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.speed.contestant import DTYPES
from bench.speed.contestants import CONTESTANTS
from bench.speed.gpu.parts import PARTS
from bench.speed.gpu.races import FEW, FEW_ARGUMENTS, FEW_SIZES, bench_command
from bench.speed.gpu.sanitizers import SANITIZED, sanitizer_command
from bench.speed.gpu.tests import command_of_tests, workers
from bench.speed.result import Entrant
from bench.speed.runner import MODES
from bench.speed.settings import CUDA_ROUNDS, RaceSettings
from bench.speed.sizes import DEFAULT_SIZES, Size, parse_size

# Guesses, on the slow side, for one H100 of 80 GB.
_BYTES_A_SECOND = 2.5e12
_STARTING = 12.0  # of a process with torch and a CUDA context
_ENTRY_SECONDS = 0.3  # building and capturing one
_PROFILED_SECONDS = 0.3  # building it once more, and a session of the profiler
_SAMPLE_SECONDS = 2e-3  # host time of one: flush, spin, two passes
_STEPS_BESIDE = 6  # warming up, counting allocations
_STEPS_PROFILED = 5  # warming up again, profiling
_TEST_SECONDS = 0.25
_TESTS = 5000  # about; the dry run counts them
_SANITIZED_SECONDS = 30.0
_MEMORY = 80e9
_MOMENTS, _MASTER = 8, 4  # bytes of a parameter: two in fp32, and a copy of a half
_CORES = 16


def text(parts: Sequence[str]) -> str:
    """The parts in their order: command, time limit and a guess of what each takes."""
    lines = ["Plan for one H100 of 80 GB and 16 cores (times are guesses, nothing is measured):"]
    total = 0.0
    for name in parts:
        seconds, words = _GUESSES[name]()
        limit = PARTS[name].limit
        total += limit + PARTS[name].grace
        lines.append(f"- {name}: limit {limit:.0f} s, about {min(seconds, limit):.0f} s. {words}")
        lines += [f"    {shlex.join(command)}" for command in _commands(name)]
    lines.append(f"All of it ends within {total:.0f} s, the build aside.")
    return "\n".join(lines)


def race_seconds(size: Size, dtype: str, names: Sequence[str]) -> float:
    """A guess of what a race takes without a time limit."""
    seconds = 0.0
    profiled = set()
    for entrant in _entrants(size, names):
        traffic = entrant.contestant.bytes_per_param(DTYPES[dtype]) * size.numel
        steps = 2 * CUDA_ROUNDS + _STEPS_BESIDE
        seconds += _ENTRY_SECONDS + CUDA_ROUNDS * _SAMPLE_SECONDS
        if (kind := (entrant.contestant.name, entrant.capturable)) not in profiled:
            profiled.add(kind)
            steps += _STEPS_PROFILED
            seconds += _PROFILED_SECONDS
        seconds += steps * traffic / _BYTES_A_SECOND
    return seconds


def race_memory(size: Size, dtype: str, names: Sequence[str]) -> float:
    """A guess of the bytes at once: parameters and gradients, a copy, what optimizers keep."""
    item = DTYPES[dtype].itemsize
    built: dict[str, set[tuple[bool, bool]]] = {name: set() for name in names}  # as race.py does
    for entrant in _entrants(size, names):
        built[entrant.contestant.name].add((entrant.capturable, entrant.mode == "moved"))
    state = _MOMENTS + (_MASTER if item == 2 else 0)
    kept = [len(kinds) * state * size.numel for kinds in built.values()]
    states = max(kept) if _settings(names).one_by_one(size) else sum(kept)
    return 5 * item * size.numel + 2 * 2**30 + states


def _settings(names: Sequence[str]) -> RaceSettings:
    return RaceSettings(torch.device("cuda"), "auto", tuple(names), MODES["cuda"])


def _entrants(size: Size, names: Sequence[str]) -> list[Entrant]:
    modes = _settings(names).modes_for(size)
    entrants = [Entrant(CONTESTANTS[name], mode) for name in names for mode in modes]
    return [entrant for entrant in entrants if entrant.possible]


def _tests() -> tuple[float, str]:
    at_once = workers(_CORES)
    seconds = _STARTING + _TESTS * _TEST_SECONDS / at_once
    return seconds, f"About {_TESTS} tests, {at_once} at a time; most telling first."


def _bench(names: Sequence[str], sizes: Sequence[str]) -> tuple[float, str]:
    races = [(parse_size(size), dtype) for dtype in DTYPES for size in sizes]
    seconds = _STARTING + sum(race_seconds(size, dtype, names) for size, dtype in races)
    most = max(race_memory(size, dtype, names) for size, dtype in races)
    fits = "fits" if most < _MEMORY else "DOES NOT FIT"
    words = f"{len(names)} contestants at {', '.join(sizes)} in {' and '.join(DTYPES)}, "
    return seconds, f"{words}at most about {most / 1e9:.0f} GB at once, which {fits}."


def _few() -> tuple[float, str]:
    return _bench(FEW, FEW_SIZES)


def _all() -> tuple[float, str]:
    present = [name for name, row in CONTESTANTS.items() if row.why_absent is None]
    return _bench(present, DEFAULT_SIZES["cuda"])


def _sanitizers() -> tuple[float, str]:
    words = f"{len(SANITIZED)} runs at once: {', '.join(SANITIZED)}."
    return _STARTING + _SANITIZED_SECONDS, words


_GUESSES: dict[str, Callable[[], tuple[float, str]]] = {
    "tests": _tests,
    "bench": _few,
    "sanitize": _sanitizers,
    "bench-all": _all,
}


def _commands(part: str) -> list[list[str]]:
    out, limit = Path("OUT"), PARTS[part].limit
    if part == "tests":
        return [command_of_tests(dry=False, cores=_CORES)]
    if part == "sanitize":
        return [sanitizer_command(name) for name in SANITIZED]
    if part == "bench":
        return [bench_command(out, limit, False, *FEW_ARGUMENTS)]
    return [bench_command(out / "all", limit, False)]
