"""What `make gpu` calls: runs the parts, each under its limit, and renews a page."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Container, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from bench.common import environment
from bench.common.limits import children_end_with_us
from bench.common.results import RESULTS
from bench.speed import page
from bench.speed.gpu import forecast
from bench.speed.gpu.part import PartOutcome
from bench.speed.gpu.parts import PARTS
from bench.speed.gpu.sanitizers import SANITIZER, find_sanitizer
from yfkernels.ops import backends as ops

_OPTIONAL = ("rich", "matplotlib", "pytest_benchmark", "xdist", "sklearn", "typer")
DESCRIPTION = """GPU tests, benchmarks, compute-sanitizer and a page about them, in six minutes.
Each part has a time limit, writes its log into the folder of this commit line by line, and can be
run alone; the page is renewed after each from what the folder holds. bench-all, every contestant at
every size, runs only if it is named."""


def main(argv: Sequence[str]) -> int:
    """Run the parts that are named, or all that are there by default.

    Returns:
        The exit status: 1 if a part failed, if one that is named could not be run, or if there is
        no CUDA device. A missed speed target is reported and is no failure.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.speed.gpu", description=DESCRIPTION)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="PART=SECONDS",
        help="another time limit for a part: --limit tests=300",
    )
    parser.add_argument("--out", type=Path, help="default: bench/results/cuda-<commit>")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, and rehearse on the CPU what can be; results go to a folder that is "
        "removed, unless --out names one",
    )
    options = parser.parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    parts = options.parts or [name for name, part in PARTS.items() if part.default]
    for text in options.limit:
        name, _, seconds = text.partition("=")
        if name not in PARTS or not seconds.replace(".", "", 1).isdigit():
            parser.error(f"--limit {text}: give a part and its seconds, as tests=300")
        PARTS[name] = replace(PARTS[name], limit=float(seconds))

    show_what_is_here()
    if options.dry_run:
        print(forecast.text(parts), flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            return run_parts(parts, options.out or Path(temporary) / "dry-run", dry=True)
    if not torch.cuda.is_available():
        print(
            "make gpu: stopped before the first line that needs a GPU: torch "
            f"{torch.__version__} sees no CUDA device. Run `nvidia-smi` for the driver's view, "
            "and check that torch is a CUDA build.",
            file=sys.stderr,
        )
        return 1
    folder = options.out or RESULTS / default_name()
    return run_parts(parts, folder, dry=False, wanted=options.parts)


def run_parts(parts: Sequence[str], folder: Path, dry: bool, wanted: Container[str] = ()) -> int:
    """Run them one after the other, whatever becomes of those before; returns the exit status.

    Args:
        parts: their names.
        folder: gets the results.
        dry: without a device.
        wanted: those whose absence is an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    with children_end_with_us():
        for part in parts:
            try:
                outcomes[part] = run_part(part, folder, dry)
            finally:
                page.write(folder)
    for part, outcome in outcomes.items():
        print(f"{part}: {outcome.words}")
    print("Report:", folder / "report.md")
    absent = [part for part, outcome in outcomes.items() if not outcome.ran and part in wanted]
    return int(bool(absent) or any(outcome.failed for outcome in outcomes.values()))


def show_what_is_here() -> None:
    """Print which backends serve CUDA, and which tools and packages this machine lacks."""
    print(f"torch {torch.__version__}, {torch.cuda.device_count()} CUDA devices")
    for backend, reason in ops.backend_status("cuda").items():
        print(f"backend {backend}: {reason or 'ready'}")
    missing = [name for name in _OPTIONAL if find_spec(name) is None]
    missing += [] if find_sanitizer() else [SANITIZER]
    print("Not installed, done without:", ", ".join(missing) or "nothing")
    sys.stdout.flush()


def default_name() -> str:
    """Of the folder: a commit's parts meet in one."""
    commit = environment.commit()
    return "cuda" if commit is None else f"cuda-{commit[:7]}"


def run_part(part: str, folder: Path, dry: bool = False) -> PartOutcome:
    """Run one part and leave its outcome as the last line of its log."""
    start = time.monotonic()
    log = folder / f"{part}.log"
    log.write_text("", encoding="utf-8")

    def told(outcome: PartOutcome) -> PartOutcome:
        verdict = "FAILED" if outcome.failed else "done" if outcome.ran else "NOT RUN"
        words = f"{verdict} in {time.monotonic() - start:.0f} s: {outcome.words}"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n{words}\n")
        print(f"\n{part}: {words}\n", flush=True)
        return replace(outcome, words=words)

    try:
        outcome = PARTS[part].run(log, PARTS[part].limit, dry)
    except Exception as error:  # a fault of this program must not cost the other parts
        outcome = PartOutcome(True, f"{type(error).__name__}: {error}")
    except BaseException:
        told(PartOutcome(True, "stopped from outside"))
        raise
    return told(outcome)
