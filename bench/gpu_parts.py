"""The parts of `make gpu`: what each runs, for how long, and how its end is put into words."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.limited import GRACE, Ended, run_limited

AWKWARD_STEPS = Path("tests/gpu/awkward_steps.py")
SANITIZER = "compute-sanitizer"
# By name the tool and what it looks at. All at once: most of their time is that of starting up.
SANITIZED: dict[str, tuple[str, tuple[str, ...]]] = {
    "memcheck": ("memcheck", ()),
    "racecheck": ("racecheck", ()),
    "racecheck of Triton": ("racecheck", ("--backend", "triton", "--few")),
    "synccheck": ("synccheck", ()),
    "initcheck": ("initcheck", ()),
}
FEW = ("--contestants", "yellowfin-compact,lamb,qhm,adamw-fused,adamw-fused+clip,sgd-fused")
FEW_SIZES = "1x1G,gpt2,400x64"
_BENCH_RESERVE = 20.0  # of its limit: starting up, drawing, and the race in hand
_TESTS_GRACE = 25.0  # pytest ends its workers, each with a CUDA context, before it sums up
_FOUND_ERRORS = 9
_REPORTED = re.compile(r"========= (Invalid|Error: Race|Uninitialized|Barrier error)")
_UNSUPPORTED = re.compile(
    r"^========= (?:Internal )?(?:\w+ )?Error: .*(?:not supported|unsupported).*", re.M | re.I
)


@dataclass(frozen=True)
class Outcome:
    """How a part ended, in a line; only `failed` fails `make gpu`."""

    failed: bool
    words: str


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        limit: seconds until it is interrupted, whatever the others take.
        grace: seconds from then until it is killed.
        run: runs it, with its log, its limit and whether this is a dry run: then on this machine's
            CPU, whatever of it can be.
        default: whether `make gpu` without PART runs it.
    """

    limit: float
    run: Callable[[Path, float, bool], Outcome]
    default: bool = True
    grace: float = GRACE


def workers(cores: int) -> int:
    """Processes that share the tests: some of the cores are left to CUDA's own threads."""
    return min(12, max(1, cores - 2))


def command_of_tests(dry: bool, cores: int | None = None) -> list[str]:
    """Every test that needs a device; those that say most come first, see tests/sharing.py."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider"]
    command += ["--ignore=tests/frameworks"]  # they need no device, and seconds to be imported
    if dry:  # a plugin has the device's tests collected
        return [*command, "-q", "-p", "support.pretend_cuda", "--collect-only"]
    # a line a test, so that the log of one that is stopped tells; and where a stuck one stands
    command += ["-v", "-o", "faulthandler_timeout=45", "-p", "support.on_a_device"]
    if find_spec("xdist"):
        command += ["-n", str(workers(cores or os.cpu_count() or 1))]
    return command


def run_tests(log: Path, limit: float, dry: bool) -> Outcome:
    """The tests, several at a time where pytest-xdist is installed."""
    # one seed for all workers, so that the log's first line repeats the run
    seed = {"YFK_TEST_SEED": os.environ.get("YFK_TEST_SEED", str(secrets.randbits(32)))}
    pretended = {"TRITON_INTERPRET": "1"} if dry else {}
    env = environment(**seed, **pretended)
    ended = run_limited(command_of_tests(dry), log, limit, env, _TESTS_GRACE)
    return verdict_on_tests(ended)


def verdict_on_tests(ended: Ended) -> Outcome:
    """What came of the tests; if they were stopped, of those that had run."""
    if not ended.timed_out:
        return Outcome(ended.status != 0, last_words(ended).strip("= "))
    verdicts = Counter(re.findall(r" (PASSED|FAILED|ERROR|SKIPPED)\b", ended.output))
    found = ", ".join(f"{count} {verdict.lower()}" for verdict, count in verdicts.items())
    failed = dict.fromkeys(
        re.findall(r"(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", ended.output, re.M)
    )
    names = f": {'; '.join(failed)}" if failed else ""
    return Outcome(True, f"stopped by its time limit after {found or 'no test'}{names}")


def run_sanitizers(log: Path, limit: float, dry: bool) -> Outcome:
    """A few steps on awkward tensors under every tool, all tools at once."""
    if dry:
        steps = [sys.executable, str(AWKWARD_STEPS), "--device", "cpu", "--backend", "auto"]
        ended = run_limited(steps, log, limit, environment())
        return Outcome(ended.status != 0, f"without a sanitizer: {last_words(ended)}")
    if shutil.which(SANITIZER) is None:
        return Outcome(False, f"skipped: {SANITIZER} is not on PATH")
    # each tensor an allocation of its own, so that a step over its end is seen
    env = environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")

    with tempfile.TemporaryDirectory() as own_logs, ThreadPoolExecutor(len(SANITIZED)) as pool:

        def run(name: str) -> Ended:
            return run_limited(sanitizer_command(name), Path(own_logs, name), limit, env)

        ends = dict(zip(SANITIZED, pool.map(run, SANITIZED)))
    with log.open("a", encoding="utf-8") as file:
        for name, ended in ends.items():
            file.write(f"{name}\n{ended.output}\n")
    verdicts = {name: sanitizer_verdict(ended) for name, ended in ends.items()}
    return Outcome(
        any(failed for failed, _ in verdicts.values()),
        "; ".join(f"{name} {words}" for name, (_, words) in verdicts.items()),
    )


def sanitizer_command(name: str) -> list[str]:
    """A tool over the steps."""
    tool, arguments = SANITIZED[name]
    command = [SANITIZER, "--tool", tool, "--error-exitcode", str(_FOUND_ERRORS)]
    if tool == "memcheck":  # calls by which torch asks the driver what it has may fail
        command += ["--report-api-errors", "no"]
    return [*command, sys.executable, str(AWKWARD_STEPS), *arguments]


def sanitizer_verdict(ended: Ended) -> tuple[bool, str]:
    """Whether a tool's run is a failure, and the words for it."""
    summaries = re.findall(r"SUMMARY: (\d+ [^\n]*)", ended.output)
    found = any(not summary.startswith("0 ") for summary in summaries)
    if found or ended.status == _FOUND_ERRORS or _REPORTED.search(ended.output):
        return True, f"found {'; '.join(summaries) or 'errors'}"
    if ended.timed_out:
        return True, "stopped by its time limit, with nothing found until then"
    if ended.status != 0:
        unsupported = _UNSUPPORTED.search(ended.output)
        if unsupported:
            return False, f"skipped: {unsupported[0].strip('= ')}"
        return True, f"did not run: {last_words(ended)}"
    return False, "clean"


def bench_command(out: Path, limit: float, dry: bool, *arguments: str) -> list[str]:
    """The runner, for less than the limit."""
    command = [sys.executable, "-m", "bench.runner", "--check", "--dtype", "fp32,bf16"]
    command += ["--budget", str(round(limit - _BENCH_RESERVE)), "--out", str(out), *arguments]
    if dry:
        return [*command, "--device", "cpu", "--sizes", "3x64,2x1K", "--rounds", "2"]
    return [*command, "--device", "cuda"]


def run_bench(log: Path, limit: float, dry: bool) -> Outcome:
    """What says most: the defaults and what they are held against, at three sizes."""
    return _bench(log.parent, log, limit, dry, (*FEW, "--sizes", FEW_SIZES))


def run_bench_all(log: Path, limit: float, dry: bool) -> Outcome:
    """Every contestant at every size, into a folder of their own."""
    arguments = ("--contestants", "*yellowfin*") if dry else ()
    return _bench(log.parent / "all", log, limit, dry, arguments)


def _bench(out: Path, log: Path, limit: float, dry: bool, arguments: Sequence[str]) -> Outcome:
    out.mkdir(exist_ok=True)
    summary_file = out / "summary.json"
    summary_file.unlink(missing_ok=True)
    ended = run_limited(bench_command(out, limit, dry, *arguments), log, limit, environment())
    if not summary_file.exists():
        return Outcome(True, last_words(ended))
    summary = json.loads(summary_file.read_text(encoding="utf-8"))
    met = sum(target["outcome"] == "pass" for target in summary["targets"])
    left_out = summary["environment"].get("no time for")
    failures = {
        f"{name} at {size}": words
        for size, result in summary["sizes"].items()
        for name, words in result["failed"].items()
    }
    words = (
        f"{len(summary['sizes'])} sizes measured, {met} of {len(summary['targets'])} targets met"
    )
    words += f", no time for {left_out}" if left_out else ""
    words += "".join(f"; {name} failed: {error}" for name, error in failures.items())
    if ended.timed_out:
        words += "; stopped by its time limit"
    elif ended.status != 0 and not failures:
        words += f"; then {last_words(ended)}"
    return Outcome(ended.status != 0, words)


# in the order in which they run: what says most comes first
PARTS = {
    "tests": Part(120.0, run_tests, grace=_TESTS_GRACE),
    "bench": Part(110.0, run_bench),
    "sanitize": Part(60.0, run_sanitizers),
    "bench-all": Part(600.0, run_bench_all, default=False),
}


def environment(**variables: str) -> Mapping[str, str]:
    """This process's environment, in which the package is found without being installed."""
    here = os.getcwd()
    path = [here, str(Path(here, "tests")), *filter(None, [os.environ.get("PYTHONPATH")])]
    unbuffered = {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **unbuffered, **variables}


def last_words(ended: Ended) -> str:
    """The last line that a command printed."""
    lines = [line for line in ended.output.splitlines() if line.strip()]
    words = lines[-1].strip() if lines else "no output"
    return f"stopped by its time limit after: {words}" if ended.timed_out else words
