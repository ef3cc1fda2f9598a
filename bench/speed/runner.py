"""`yfkernels bench`: race the fused optimizers against their rivals and report."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import filter as matching
from pathlib import Path

import torch

from bench.common import environment
from bench.common.tables import show
from bench.speed import page, report, tables
from bench.speed.contestants import CONTESTANTS, DTYPES
from bench.speed.race import Plan, race
from bench.speed.result import Result
from bench.speed.sizes import DEFAULT_SIZES, QUICK_SIZES, Size, parse_size
from bench.speed.targets import check
from yfkernels.ops.backend import BACKENDS

MODES = {"cpu": ("eager", "moved"), "cuda": ("eager", "moved", "capturable", "graph")}
QUICK_ROUNDS = 5


def main(argv: list[str]) -> int:
    """Run the benchmarks.

    Args:
        argv: the arguments after `yfkernels bench`.

    Returns:
        The exit status: 1 if an optimizer of this package raised an exception. A rival's is
        reported and is no error, and neither is a missed target.
    """
    options = _parse(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    quick_rounds = QUICK_ROUNDS if options.quick else None
    plan = Plan(
        device=device,
        backend=options.backend,
        contestants=options.contestants,
        modes=MODES[device.type],
        rounds=options.rounds or quick_rounds,
    )
    default_sizes = QUICK_SIZES if options.quick else DEFAULT_SIZES[device.type]
    sizes = options.sizes or [parse_size(name) for name in default_sizes]

    wanted = {name: None for size in sizes for name in plan.contestants_for(size)}
    absent = {
        name: reason for name in wanted if (reason := CONTESTANTS[name].why_absent) is not None
    }
    facts = environment.describe(device, options.backend, absent)
    show(tables.environment_table(facts))
    races = [(size, dtype) for dtype in options.dtype for size in sizes]
    expected = [_expected_cost(size, DTYPES[dtype]) for size, dtype in races]
    results: dict[str, Result] = {}
    end = plan.now() + (math.inf if options.budget is None else options.budget)
    for number, (size, dtype) in enumerate(races):
        share = (end - plan.now()) * expected[number] / sum(expected[number:])
        if share <= 0.0:
            unrun = ", ".join(f"{size.name} {dtype}" for size, dtype in races[number:])
            facts["no time for"] = unrun
            print(f"The time is up ({options.budget} s). Left out: {unrun}")
            break
        start = plan.now()

        def keep(result: Result) -> None:
            """Writes what there is, so that a run that is stopped keeps it."""
            results[result.name] = result
            verdicts = check(results, device.type, wanted)
            report.write(options.out, device, facts, list(results.values()), verdicts)

        with _progress(size, plan.rounds_for(size)) as advance:
            result = race(size, plan, DTYPES[dtype], share, advance, keep)
        keep(result)
        show(tables.race_table(result, device))
        print(f"({plan.now() - start:.0f} s)\n", flush=True)

    verdicts = check(results, device.type, wanted)
    if options.check:
        show(tables.target_table(verdicts))
    written = report.write(options.out, device, facts, list(results.values()), verdicts)
    written += report.draw(options.out, device, facts, list(results.values()))
    print("Written:", *written, page.write(options.out))
    ours = [
        f"{name} at {result.name}: {words}"
        for result in results.values()
        for name, words in result.failed.items()
        if CONTESTANTS[name].ours
    ]
    if ours:
        print("Failed:", "; ".join(ours))
    return int(bool(ours))


def _expected_cost(size: Size, dtype: torch.dtype) -> float:
    """What a race takes, relative to one of a few small tensors: by bytes and by launches."""
    return 1.0 + size.numel * dtype.itemsize / 4e8 + size.tensors / 1e3


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="yfkernels bench",
        description="Time, traffic and memory of one optimizer step, beside its rivals in one run.",
    )
    parser.add_argument("--device", choices=DEFAULT_SIZES, default="cpu", help="default: cpu")
    parser.add_argument(
        "--sizes",
        type=_sizes,
        help="resnet50, gpt2, bert-large or TENSORSxELEMENTS (1x50M), separated by commas; "
        "without it, all that suit the device",
    )
    parser.add_argument(
        "--contestants",
        type=_contestants,
        help=f"of {', '.join(CONTESTANTS)}, or patterns such as '*lamb*', separated by commas; "
        "default: all, on a CPU those of other packages only where a target compares them",
    )
    parser.add_argument(
        "--dtype",
        type=_dtypes,
        default="fp32",
        help="of the parameters: fp32, bf16 or both, separated by a comma; default: fp32",
    )
    parser.add_argument(
        "--backend", choices=("auto", *BACKENDS), default="auto", help="default: auto"
    )
    parser.add_argument("--rounds", type=_at_least(2), help="samples per contestant and size")
    parser.add_argument(
        "--threads", type=_at_least(1), help="CPU threads; without it, torch's choice"
    )
    parser.add_argument(
        "--budget",
        type=_at_least(1),
        help="seconds: slow rivals, last rounds and last sizes are left out to keep it",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds on the smaller sizes")
    parser.add_argument("--check", action="store_true", help="print targets beside measurements")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder to write; default: runs/bench"
    )
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device; run with --device cpu")
    return options


def _sizes(text: str) -> list[Size]:
    try:
        return [parse_size(name) for name in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _contestants(text: str) -> tuple[str, ...]:
    """Names and patterns in the order given, which is the order of the tables."""
    names: dict[str, None] = {}
    for pattern in text.split(","):
        found = matching(CONTESTANTS, pattern)
        if not found:
            raise argparse.ArgumentTypeError(
                f"no contestant {pattern!r}; choose from {', '.join(CONTESTANTS)}"
            )
        names |= dict.fromkeys(found)
    return tuple(names)


def _dtypes(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in DTYPES:
            raise argparse.ArgumentTypeError(f"no dtype {name!r}; choose from {', '.join(DTYPES)}")
    return names


def _at_least(minimum: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} up")
        return int(text)

    return whole_number


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
