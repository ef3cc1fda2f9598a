"""`make gpu`: GPU tests, compute-sanitizer, benchmarks and a page about them, in nine minutes.

    python -m bench.gpu [tests|sanitize|bench ...] [--out FOLDER]

Each part has a time limit, writes its log into the folder of this commit, and can be run alone;
the page is renewed after each from what the folder holds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from bench import environment, page
from bench.limited import Ended, run_limited
from yfkernels import ops

RESULTS = Path("bench/results")
AWKWARD_STEPS = Path("tests/gpu/awkward_steps.py")
SANITIZER = "compute-sanitizer"
# racecheck second: if the time is up, the other two are what is missed least
SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
LIMITS = {"tests": 165.0, "sanitize": 85.0, "bench": 240.0}  # seconds
_BENCH_RESERVE = 20.0  # of its limit: starting up, drawing, and the race in hand
_FOUND_ERRORS = 9
_REPORTED = re.compile(r"========= (Invalid|Error: Race|Uninitialized|Barrier error)")
_OPTIONAL = ("rich", "matplotlib", "pytest_benchmark", "xdist", "sklearn", "typer")


@dataclass(frozen=True)
class Outcome:
    """How a part ended, in a line; only `failed` fails `make gpu`."""

    failed: bool
    words: str


def main(argv: Sequence[str]) -> int:
    """Run the parts that are named, or all.

    Returns:
        The exit status: 1 if a part failed or there is no CUDA device. A missed speed target is
        reported and is no failure.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="default: bench/results/cuda-<commit>")
    options = parser.parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; choose from {', '.join(PARTS)}")

    show_what_is_here()
    if not torch.cuda.is_available():
        print(
            "make gpu: stopped before the first line that needs a GPU: torch "
            f"{torch.__version__} sees no CUDA device. Run `nvidia-smi` for the driver's view, "
            "and check that torch is a CUDA build.",
            file=sys.stderr,
        )
        return 1
    folder = options.out or RESULTS / default_name()
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for part in options.parts or PARTS:
        outcomes[part] = run_part(part, folder)
        page.write(folder)
    for part, outcome in outcomes.items():
        print(f"{part}: {outcome.words}")
    print("Report:", folder / "report.md")
    return int(any(outcome.failed for outcome in outcomes.values()))


def show_what_is_here() -> None:
    """Print which backends serve CUDA, and which tools and packages this machine lacks."""
    print(f"torch {torch.__version__}, {torch.cuda.device_count()} CUDA devices")
    for backend, reason in ops.backend_status("cuda").items():
        print(f"backend {backend}: {reason or 'ready'}")
    missing = [name for name in _OPTIONAL if find_spec(name) is None]
    missing += [name for name in (SANITIZER,) if shutil.which(name) is None]
    print("Not installed, done without:", ", ".join(missing) or "nothing")
    sys.stdout.flush()


def default_name() -> str:
    """Of the folder: a commit's parts meet in one."""
    commit = environment.commit()
    return "cuda" if commit is None else f"cuda-{commit[:7]}"


def run_part(part: str, folder: Path) -> Outcome:
    """Run one part and leave its outcome as the last line of its log."""
    start = time.monotonic()
    log = folder / f"{part}.log"
    log.write_text("", encoding="utf-8")
    outcome = PARTS[part](log, LIMITS[part])
    seconds = time.monotonic() - start
    outcome = Outcome(
        outcome.failed,
        f"{'FAILED' if outcome.failed else 'done'} in {seconds:.0f} s: {outcome.words}",
    )
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n{outcome.words}\n")
    print(f"\n{part}: {outcome.words}\n", flush=True)
    return outcome


def run_tests(log: Path, limit: float) -> Outcome:
    """Every test that needs a device, several at a time where pytest-xdist is installed."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider"]
    if find_spec("xdist"):
        command += ["-n", str(min(8, max(1, (os.cpu_count() or 1) // 2)))]
    # one seed for all workers, so that the log's first line repeats the run
    seed = {"YFK_TEST_SEED": os.environ.get("YFK_TEST_SEED", str(secrets.randbits(32)))}
    ended = run_limited(command, log, limit, _environment(**seed))
    return Outcome(ended.status != 0, _last_words(ended).strip("= "))


def run_sanitizers(log: Path, limit: float) -> Outcome:
    """A few steps of the native kernels on awkward tensors under every tool, while time lasts."""
    if shutil.which(SANITIZER) is None:
        return Outcome(False, f"skipped: {SANITIZER} is not on PATH")
    steps = [sys.executable, str(AWKWARD_STEPS)]
    # each tensor an allocation of its own, so that a step over its end is seen
    env = _environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    end = time.monotonic() + limit
    verdicts = []
    failed = False
    longest = 0.0
    for tool in SANITIZER_TOOLS:
        start = time.monotonic()
        remaining = end - start
        if remaining < 1.5 * longest:
            verdicts.append(f"{tool} left out, no time")
            continue
        command = [SANITIZER, "--tool", tool, "--error-exitcode", str(_FOUND_ERRORS), *steps]
        ended = run_limited(command, log, remaining, env)
        longest = max(longest, time.monotonic() - start)
        bad, words = sanitizer_verdict(ended)
        failed |= bad
        verdicts.append(f"{tool} {words}")
    return Outcome(failed, "; ".join(verdicts))


def sanitizer_verdict(ended: Ended) -> tuple[bool, str]:
    """Whether a tool's run is a failure, and the words for it."""
    summaries = re.findall(r"SUMMARY: (\d+ [^\n]*)", ended.output)
    found = any(not summary.startswith("0 ") for summary in summaries)
    if found or ended.status == _FOUND_ERRORS or _REPORTED.search(ended.output):
        return True, f"found {'; '.join(summaries) or 'errors'}"
    if ended.timed_out:
        return True, "stopped by its time limit, with nothing found until then"
    if ended.status != 0:
        return True, f"did not run: {_last_words(ended)}"
    return False, "clean"


def run_bench(log: Path, limit: float) -> Outcome:
    """The benchmarks of both dtypes, within the limit."""
    command = [sys.executable, "-m", "bench.runner", "--device", "cuda", "--check"]
    command += ["--dtype", "fp32,bf16", "--budget", str(round(limit - _BENCH_RESERVE))]
    ended = run_limited([*command, "--out", str(log.parent)], log, limit, _environment())
    if ended.status != 0:
        return Outcome(True, _last_words(ended))
    summary = json.loads((log.parent / "summary.json").read_text(encoding="utf-8"))
    met = sum(target["outcome"] == "pass" for target in summary["targets"])
    left_out = summary["environment"].get("no time for")
    return Outcome(
        False,
        f"{len(summary['sizes'])} sizes measured, {met} of {len(summary['targets'])} targets met"
        + (f", no time for {left_out}" if left_out else ""),
    )


PARTS: dict[str, Callable[[Path, float], Outcome]] = {
    "tests": run_tests,
    "sanitize": run_sanitizers,
    "bench": run_bench,
}


def _environment(**variables: str) -> Mapping[str, str]:
    """This process's environment, in which the package is found without being installed."""
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **variables}


def _last_words(ended: Ended) -> str:
    lines = [line for line in ended.output.splitlines() if line.strip()]
    words = lines[-1].strip() if lines else "no output"
    return f"stopped by its time limit after: {words}" if ended.timed_out else words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
