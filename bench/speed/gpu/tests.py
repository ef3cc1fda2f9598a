"""The part of `make gpu` that runs the tests of a device."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from bench.common.limits import Ended, run_limited
from bench.speed.gpu.part import PartOutcome, child_environment, last_words

TESTS_GRACE = 25.0  # pytest ends its workers, each with a CUDA context, before it sums up


def workers(cores: int) -> int:
    """Processes that share the tests: some of the cores are left to CUDA's own threads."""
    return min(12, max(1, cores - 2))


def command_of_tests(dry: bool, cores: int | None = None) -> list[str]:
    """Every test that needs a device, in the order of tests/support/sharing.py."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider"]
    command += ["--ignore=tests/frameworks"]  # they need no device, and seconds to be imported
    if dry:  # a plugin has the device's tests collected
        return [*command, "-q", "-p", "support.pretend_cuda", "--collect-only"]
    # a line a test, so that the log of one that is stopped tells; and where a stuck one stands
    command += ["-v", "-o", "faulthandler_timeout=45", "-p", "support.on_a_device"]
    if find_spec("xdist"):
        command += ["-n", str(workers(cores or os.cpu_count() or 1))]
    return command


def run_tests(log: Path, limit: float, dry: bool) -> PartOutcome:
    """The tests, several at a time where pytest-xdist is installed."""
    # one seed for all workers, so that the log's first line repeats the run
    seed = {"YFK_TEST_SEED": os.environ.get("YFK_TEST_SEED", str(secrets.randbits(32)))}
    pretended = {"TRITON_INTERPRET": "1"} if dry else {}
    env = child_environment(**seed, **pretended)
    ended = run_limited(command_of_tests(dry), log, limit, env, TESTS_GRACE)
    return verdict_on_tests(ended)


def verdict_on_tests(ended: Ended) -> PartOutcome:
    """What came of the tests; if they were stopped, of those that had run."""
    if not ended.timed_out:
        return PartOutcome(ended.status != 0, last_words(ended).strip("= "))
    verdicts = Counter(re.findall(r" (PASSED|FAILED|ERROR|SKIPPED)\b", ended.output))
    found = ", ".join(f"{count} {verdict.lower()}" for verdict, count in verdicts.items())
    failed = dict.fromkeys(
        re.findall(r"(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", ended.output, re.M)
    )
    names = f": {'; '.join(failed)}" if failed else ""
    return PartOutcome(True, f"stopped by its time limit after {found or 'no test'}{names}")
