"""The part of `make gpu` that runs awkward steps under every tool of compute-sanitizer."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from bench.common.limits import Ended, run_limited
from bench.speed.gpu.part import PartOutcome, child_environment, last_words

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
_FOUND_ERRORS = 9
_REPORTED = re.compile(r"========= (Invalid|Error: Race|Uninitialized|Barrier error)")
_UNSUPPORTED = re.compile(
    r"^========= (?:Internal )?(?:\w+ )?Error: .*(?:not supported|unsupported).*", re.M | re.I
)


def run_sanitizers(log: Path, limit: float, dry: bool) -> PartOutcome:
    """A few steps on awkward tensors under every tool, all tools at once."""
    if dry:
        steps = [sys.executable, str(AWKWARD_STEPS), "--device", "cpu", "--backend", "auto"]
        ended = run_limited(steps, log, limit, child_environment())
        return PartOutcome(ended.status != 0, f"without a sanitizer: {last_words(ended)}")
    if find_sanitizer() is None:
        words = f"{SANITIZER} is neither on PATH nor beside nvcc; set CUDA_HOME to its toolkit"
        return PartOutcome(False, words, ran=False)
    # each tensor an allocation of its own, so that a step over its end is seen
    env = child_environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")

    one_writes = Lock()
    with tempfile.TemporaryDirectory() as own_logs, ThreadPoolExecutor(len(SANITIZED)) as pool:

        def run(name: str) -> Ended:
            ended = run_limited(sanitizer_command(name), Path(own_logs, name), limit, env)
            with one_writes, log.open("a", encoding="utf-8") as file:  # whatever ends the others
                file.write(f"{name}\n{ended.output}\n")
            return ended

        ends = dict(zip(SANITIZED, pool.map(run, SANITIZED)))
    verdicts = {name: sanitizer_verdict(ended) for name, ended in ends.items()}
    return PartOutcome(
        any(failed for failed, _ in verdicts.values()),
        "; ".join(f"{name} {words}" for name, (_, words) in verdicts.items()),
        ran=not all(words.startswith("skipped") for _, words in verdicts.values()),
    )


def find_sanitizer() -> str | None:
    """The tool on PATH, else beside the nvcc that setup.py finds: toolkits are seldom on PATH."""
    if found := shutil.which(SANITIZER):
        return found
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    compilers = [
        shutil.which(os.environ.get("CUDACXX", "")),
        *(f"{home}/bin/nvcc" for home in homes),
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
    ]
    places = [Path(nvcc) for nvcc in compilers if nvcc]
    # by its real path too: a distribution may link nvcc alone into a folder of PATH
    folders = [str(folder) for nvcc in places for folder in (nvcc.parent, nvcc.resolve().parent)]
    return shutil.which(SANITIZER, path=os.pathsep.join(folders))


def sanitizer_command(name: str) -> list[str]:
    """A tool over the steps."""
    tool, arguments = SANITIZED[name]
    command = [
        find_sanitizer() or SANITIZER,
        "--tool",
        tool,
        "--error-exitcode",
        str(_FOUND_ERRORS),
    ]
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
