"""`make gpu` without a GPU: time limits, verdicts, logs and the page, with parts that need none."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu, page
from bench.gpu import Outcome, sanitizer_verdict
from bench.limited import Ended, run_limited

CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
RACE = "========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)\n"


def test_output_is_shown_and_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    ended = run_limited([sys.executable, "-u", "-c", program], log, limit=60)
    assert ended == Ended(3, "out\nerr\n", timed_out=False)
    assert log.read_text() == capfd.readouterr().out == "out\nerr\n"


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_limit_ends_a_command_and_its_children(stubborn: bool, tmp_path: Path) -> None:
    """What was printed until then is kept, and no grandchild holds the pipe open."""
    program = f"""
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.{"SIG_IGN" if stubborn else "default_int_handler"})
print("working", flush=True)
subprocess.run([sys.executable, "-c", "import time; time.sleep(100)"])
"""
    start = time.monotonic()
    ended = run_limited([sys.executable, "-c", program], tmp_path / "log", limit=2.0, grace=1.0)
    assert time.monotonic() - start < 30.0
    assert ended.timed_out
    assert ended.status != 0
    assert ended.output.startswith("working\n")


@pytest.mark.parametrize(
    ("ended", "failed", "words"),
    [
        (Ended(0, CLEAN, False), False, "clean"),
        (Ended(9, RACE, False), True, "found 2 hazards displayed (1 error, 1 warning)"),
        (Ended(0, RACE, False), True, "found 2 hazards displayed (1 error, 1 warning)"),
        (
            Ended(1, "========= Error: Device not supported\n", False),
            True,
            "did not run: ========= Error: Device not supported",
        ),
        (Ended(-9, "", True), True, "stopped by its time limit, with nothing found until then"),
        (Ended(-9, "========= Invalid __global__ read\n", True), True, "found errors"),
    ],
)
def test_verdicts_on_sanitizers(ended: Ended, failed: bool, words: str) -> None:
    assert sanitizer_verdict(ended) == (failed, words)


def sanitizer_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = tmp_path / "bin" / gpu.SANITIZER
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)


def test_every_sanitizer_runs_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sanitizer_that(
        tmp_path,
        monkeypatch,
        'echo "$@ $PYTORCH_NO_CUDA_MEMORY_CACHING"; echo "========= ERROR SUMMARY: 0 errors"',
    )
    outcome = gpu.run_sanitizers(tmp_path / "log", 60.0)
    assert outcome == Outcome(
        False, "memcheck clean; racecheck clean; synccheck clean; initcheck clean"
    )
    calls = [line for line in (tmp_path / "log").read_text().splitlines() if "--tool" in line]
    assert [call.split()[1] for call in calls] == list(gpu.SANITIZER_TOOLS)
    assert all(call.endswith("tests/gpu/awkward_steps.py 1") for call in calls)
    assert Path(calls[0].split()[-2]).exists()


def test_sanitizers_without_time_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sanitizer_that(tmp_path, monkeypatch, "sleep 1")
    outcome = gpu.run_sanitizers(tmp_path / "log", 2.0)
    assert outcome.words.startswith("memcheck clean; racecheck left out, no time")


def test_without_a_sanitizer_the_part_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = gpu.run_sanitizers(tmp_path / "log", 60.0)
    assert outcome == Outcome(False, "skipped: compute-sanitizer is not on PATH")


def test_parts_meet_on_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part alone renews its own line; a failed one fails the whole and stops no other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    broken = {"tests": True}
    parts = {
        "tests": lambda log, limit: Outcome(broken["tests"], "2 failed | 40 passed"),
        "sanitize": lambda log, limit: Outcome(False, "memcheck clean"),
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.main(["--out", str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text()
    assert "| tests | FAILED in 0 s: 2 failed / 40 passed |" in text
    assert "| sanitize | done in 0 s: memcheck clean |" in text
    assert "No benchmarks here yet" in text

    broken["tests"] = False
    assert gpu.main(["tests", "--out", str(tmp_path)]) == 0
    assert "sanitize" not in capsys.readouterr().out.splitlines()[-2]
    text = (tmp_path / "report.md").read_text()
    assert "| tests | done in 0 s: 2 failed / 40 passed |" in text
    assert "| sanitize | done in 0 s: memcheck clean |" in text


def test_limits_leave_room_for_the_build() -> None:
    assert set(gpu.LIMITS) == set(gpu.PARTS)
    assert sum(gpu.LIMITS.values()) <= 8.5 * 60


def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    assert gpu.main([]) == 1
    shown = capsys.readouterr()
    assert "stopped before the first line that needs a GPU" in shown.err
    assert "backend native: " in shown.out


def test_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["test"])
    assert "no part 'test'; choose from tests, sanitize, bench" in capsys.readouterr().err


def test_page_of_an_empty_folder(tmp_path: Path) -> None:
    assert page.write(tmp_path).read_text() == f"# {tmp_path.name}\n\nNo benchmarks here yet.\n"
