"""`yfkernels bench`: race the fused optimizers against their rivals and report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bench import environment, report, tables
from bench.contestants import CONTESTANTS
from bench.race import Plan, race
from bench.result import Result
from bench.sizes import DEFAULT_SIZES, QUICK_SIZES, Size, parse_size
from bench.targets import check
from yfkernels.ops import BACKENDS

MODES = {"cpu": ("eager", "moved"), "cuda": ("eager", "moved", "capturable", "graph")}
QUICK_ROUNDS = 5


def main(argv: list[str]) -> int:
    """Run the benchmarks.

    Args:
        argv: the arguments after `yfkernels bench`.

    Returns:
        The exit status. A missed target is reported and is no error.
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

    facts = environment.describe(device, options.backend)
    tables.show(tables.environment_table(facts))
    results: dict[str, Result] = {}
    for size in sizes:
        with _progress(size, plan.rounds_for(size)) as advance:
            results[size.name] = race(size, plan, advance)
        tables.show(tables.race_table(results[size.name], device))

    verdicts = check(results, device.type)
    if options.check:
        tables.show(tables.target_table(verdicts))
    written = report.write(options.out, device, facts, list(results.values()), verdicts)
    print("Written:", *written)
    return 0


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
        default=",".join(CONTESTANTS),
        help=f"separated by commas; default: {', '.join(CONTESTANTS)}",
    )
    parser.add_argument(
        "--backend", choices=("auto", *BACKENDS), default="auto", help="default: auto"
    )
    parser.add_argument("--rounds", type=_at_least(2), help="samples per contestant and size")
    parser.add_argument(
        "--threads", type=_at_least(1), help="CPU threads; without it, torch's choice"
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
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in CONTESTANTS:
            raise argparse.ArgumentTypeError(
                f"no contestant {name!r}; choose from {', '.join(CONTESTANTS)}"
            )
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
