"""`yfkernels bench`: race the fused optimizers against their rivals and report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bench.common import environment
from bench.common.tables import show
from bench.speed import page, report, tables
from bench.speed.arguments import parse_arguments
from bench.speed.contestant import DTYPES
from bench.speed.contestants import CONTESTANTS
from bench.speed.profiled import profile_entrants
from bench.speed.race import race
from bench.speed.result import RaceResult
from bench.speed.settings import RaceSettings
from bench.speed.sizes import DEFAULT_SIZES, QUICK_SIZES, Size, parse_size
from bench.speed.targets import Verdict, check

MODES = {"cpu": ("eager", "moved"), "cuda": ("eager", "moved", "capturable", "graph")}
QUICK_ROUNDS = 5
_PROFILED = 0.15  # of the budget, kept for the profiler, which follows the races on CUDA


def main(argv: list[str]) -> int:
    """Run the benchmarks.

    Args:
        argv: the arguments after `yfkernels bench`.

    Returns:
        The exit status: 1 if an optimizer of this package raised an exception. A rival's is
        reported and is no error, and neither is a missed target.
    """
    options = parse_arguments(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    settings = RaceSettings(
        device=device,
        backend=options.backend,
        contestants=options.contestants,
        modes=MODES[device.type],
        rounds=options.rounds or (QUICK_ROUNDS if options.quick else None),
    )
    default_sizes = QUICK_SIZES if options.quick else DEFAULT_SIZES[device.type]
    sizes = options.sizes or [parse_size(name) for name in default_sizes]
    wanted = tuple(dict.fromkeys(n for size in sizes for n in settings.contestants_for(size)))
    absent = {name: why for name in wanted if (why := CONTESTANTS[name].why_absent) is not None}
    run = Run(settings, options.out, environment.describe(device, options.backend, absent), wanted)
    show(tables.environment_table(run.facts))
    planned = [(size, dtype) for dtype in options.dtype for size in sizes]
    if device.type == "cuda" and options.budget is not None:
        end = settings.now() + options.budget
        run.races(planned, options.budget * (1.0 - _PROFILED))
    else:
        end = math.inf
        run.races(planned, options.budget)
    if device.type == "cuda":
        run.profile(end)

    if options.check:
        show(tables.target_table(run.verdicts))
    written = run.write() + report.draw(options.out, device, run.facts, run.ordered)
    print("Written:", *written, page.write(options.out))
    if run.failures_of_ours:
        print("Failed:", "; ".join(run.failures_of_ours))
    return int(bool(run.failures_of_ours))


class Run:
    """The races of a run, each written when it ends so that a run that is stopped keeps it.

    Args:
        settings: what holds for every race.
        folder: gets the files.
        facts: the environment; sizes that there was no time for are added.
        wanted: who is to take part; targets of others are not looked at.
    """

    def __init__(
        self,
        settings: RaceSettings,
        folder: Path,
        facts: dict[str, object],
        wanted: Sequence[str],
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.facts = facts
        self.wanted = wanted
        self.results: dict[str, RaceResult] = {}

    @property
    def ordered(self) -> list[RaceResult]:
        """The results in the order of the races."""
        return list(self.results.values())

    @property
    def verdicts(self) -> list[Verdict]:
        """What became of the targets so far."""
        return check(self.results, self.settings.device.type, self.wanted)

    @property
    def failures_of_ours(self) -> list[str]:
        """Optimizers of this package that raised an exception, and its words."""
        return [
            f"{name} at {result.name}: {words}"
            for result in self.results.values()
            for name, words in result.failed.items()
            if CONTESTANTS[name].ours
        ]

    def races(self, planned: Sequence[tuple[Size, str]], budget: float | None) -> None:
        """Run races of sizes and dtypes, each in its share of the time.

        Args:
            planned: what to run, in this order.
            budget: seconds for all of it; None for no limit.
        """
        now = self.settings.now
        expected = [_expected_cost(size, DTYPES[dtype]) for size, dtype in planned]
        end = now() + (math.inf if budget is None else budget)
        for number, (size, dtype) in enumerate(planned):
            share = (end - now()) * expected[number] / sum(expected[number:])
            if share <= 0.0:
                left_out = ", ".join(f"{size.name} {dtype}" for size, dtype in planned[number:])
                self.facts["no time for"] = left_out
                print(f"The time is up ({budget} s). Left out: {left_out}")
                break
            start = now()
            with _progress(size, self.settings.rounds_for(size)) as advance:
                result = race(size, self.settings, DTYPES[dtype], share, advance, self.keep)
            self.keep(result)
            show(tables.race_table(result, self.settings.device))
            print(f"({now() - start:.0f} s)\n", flush=True)

    def profile(self, end: float) -> None:
        """Count launches and time single kernels until `end`. No race may follow."""
        start = self.settings.now()
        reason = profile_entrants(self.ordered, self.settings, end, self.keep)
        if reason:
            self.facts["launches not counted for all"] = reason
        print(f"Launches and kernels: {self.settings.now() - start:.0f} s\n", flush=True)

    def keep(self, result: RaceResult) -> None:
        """Add what a race has so far, and write all there is."""
        self.results[result.name] = result
        self.write()

    def write(self) -> list[Path]:
        """Write the numbers; returns the files."""
        device = self.settings.device
        return report.write(self.folder, device, self.facts, self.ordered, self.verdicts)


def _expected_cost(size: Size, dtype: torch.dtype) -> float:
    """What a race takes, relative to one of a few small tensors: by bytes and by launches."""
    return 1.0 + size.numel * dtype.itemsize / 4e8 + size.tensors / 1e3


@contextmanager
def _progress(size: Size, rounds: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal; yields what is to be called after each round."""
    try:
        from rich.progress import Progress
    except ModuleNotFoundError:
        yield lambda: None
        return
    with Progress(transient=True) as progress:
        bar = progress.add_task(size.name, total=rounds)
        yield lambda: progress.advance(bar)
