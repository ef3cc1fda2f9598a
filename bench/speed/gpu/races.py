"""The parts of `make gpu` that run the speed benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.common.limits import run_limited
from bench.speed.gpu.part import PartOutcome, child_environment, last_words

# What tells the most: the defaults and what they are compared with.
OURS = ("yellowfin-compact", "yellowfin-float8", "lamb", "qhm")
FEW = (*OURS, "adamw-fused", "adamw-fused+clip", "sgd-fused")
FEW_SIZES = ("1x1G", "gpt2", "400x64")
FEW_ARGUMENTS = ("--contestants", ",".join(FEW), "--sizes", ",".join(FEW_SIZES))
_BENCH_RESERVE = 20.0  # of its limit: starting up, drawing, and the race in hand


def bench_command(out: Path, limit: float, dry: bool, *arguments: str) -> list[str]:
    """The runner, for less than the limit."""
    command = [sys.executable, "-m", "bench.speed", "--check", "--dtype", "fp32,bf16"]
    command += ["--budget", str(round(limit - _BENCH_RESERVE)), "--out", str(out), *arguments]
    if dry:
        return [*command, "--device", "cpu", "--sizes", "3x64,2x1K", "--rounds", "2"]
    return [*command, "--device", "cuda"]


def run_bench(log: Path, limit: float, dry: bool) -> PartOutcome:
    """The few that tell the most, at three sizes."""
    return _bench(log.parent, log, limit, dry, FEW_ARGUMENTS)


def run_bench_all(log: Path, limit: float, dry: bool) -> PartOutcome:
    """Every contestant at every size, into a folder of their own."""
    arguments = ("--contestants", "*yellowfin*") if dry else ()
    return _bench(log.parent / "all", log, limit, dry, arguments)


def _bench(out: Path, log: Path, limit: float, dry: bool, arguments: Sequence[str]) -> PartOutcome:
    out.mkdir(exist_ok=True)
    summary_file = out / "summary.json"
    summary_file.unlink(missing_ok=True)
    ended = run_limited(bench_command(out, limit, dry, *arguments), log, limit, child_environment())
    if not summary_file.exists():
        return PartOutcome(True, last_words(ended))
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
    return PartOutcome(ended.status != 0, words)
