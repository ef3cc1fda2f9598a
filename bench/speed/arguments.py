"""The command line of the speed benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fnmatch import filter as matching
from pathlib import Path

import torch

from bench.speed.contestant import DTYPES
from bench.speed.contestants import CONTESTANTS
from bench.speed.sizes import DEFAULT_SIZES, Size, parse_size
from yfkernels.ops.backends import BACKENDS


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="yfkernels bench",
        description="Time, traffic and memory of one optimizer step, beside its rivals in one run.",
        epilog="Example: yfkernels bench --quick --sizes 1x1M",
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
