"""`make gpu` without a GPU: time limits, verdicts, logs and the page, with parts that need none."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.common.limits import GRACE, Ended, run_limited
from bench.common.results import write_text
from bench.speed import page
from bench.speed.gpu import command
from bench.speed.gpu.part import Part, PartOutcome
from bench.speed.gpu.parts import PARTS
from bench.speed.gpu.sanitizers import (
    SANITIZED,
    SANITIZER,
    find_sanitizer,
    run_sanitizers,
    sanitizer_command,
    sanitizer_verdict,
)
from bench.speed.gpu.tests import verdict_on_tests

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
            False,
            "skipped: Error: Device not supported",
        ),
        (
            Ended(1, "========= Error: racecheck is unsupported with this driver\n", False),
            False,
            "skipped: Error: racecheck is unsupported with this driver",
        ),
        (
            Ended(1, '========= Program hit error 801 due to "operation not supported"', False),
            True,
            'did not run: ========= Program hit error 801 due to "operation not supported"',
        ),
        (Ended(1, "ImportError: no torch\n", False), True, "did not run: ImportError: no torch"),
        (Ended(-9, "", True), True, "stopped by its time limit, with nothing found until then"),
        (Ended(-9, "========= Invalid __global__ read\n", True), True, "found errors"),
    ],
)
def test_verdicts_on_sanitizers(ended: Ended, failed: bool, words: str) -> None:
    assert sanitizer_verdict(ended) == (failed, words)


def tool_in(folder: Path, name: str, script: str = "") -> Path:
    """A program of this name in a folder, which is made."""
    folder.mkdir(parents=True)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return tool


def sanitizer_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = tool_in(tmp_path / "bin", SANITIZER, script)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)


def test_every_sanitizer_runs_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sanitizer_that(
        tmp_path,
        monkeypatch,
        'echo "$@ $PYTORCH_NO_CUDA_MEMORY_CACHING"; echo "========= ERROR SUMMARY: 0 errors"',
    )
    outcome = run_sanitizers(tmp_path / "log", 60.0, False)
    assert outcome == PartOutcome(False, "; ".join(f"{name} clean" for name in SANITIZED))
    calls = [line for line in (tmp_path / "log").read_text().splitlines() if "--tool" in line]
    tools = ["memcheck", "racecheck", "racecheck", "synccheck", "initcheck"]
    assert sorted(call.split()[1] for call in calls) == sorted(tools)  # as they end
    assert all("tests/gpu/awkward_steps.py" in call and call.endswith(" 1") for call in calls)
    few = [call for call in calls if "--backend triton --few" in call]
    assert [call.split()[1] for call in few] == ["racecheck"]
    scripts = {word for call in calls for word in call.split() if word.endswith(".py")}
    assert all(Path(script).exists() for script in scripts)


def test_sanitizers_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the whole limit, and a stuck one takes it from nobody."""
    script = 'case "$2" in memcheck) exec sleep 60;; esac; echo "========= ERROR SUMMARY: 0 errors"'
    sanitizer_that(tmp_path, monkeypatch, script)
    start = time.monotonic()
    outcome = run_sanitizers(tmp_path / "log", 3.0, False)
    assert time.monotonic() - start < 3.0 + GRACE + 20.0
    assert outcome.failed
    assert outcome.words.startswith("memcheck stopped by its time limit, with nothing found")
    assert outcome.words.endswith("initcheck clean")


def test_a_stopped_run_of_tests_tells_what_there_was() -> None:
    output = """[gw0] [ 10%] PASSED tests/a.py::test_one[x]
[gw1] [ 20%] FAILED tests/a.py::test_two[y]
[gw1] [ 30%] PASSED tests/a.py::test_three[y]
!!! KeyboardInterrupt !!!
FAILED tests/a.py::test_two[y] - assert 1 == 2
"""
    words = "stopped by its time limit after 2 passed, 1 failed: tests/a.py::test_two[y]"
    assert verdict_on_tests(Ended(2, output, True)) == PartOutcome(True, words)
    words = "stopped by its time limit after no test"
    assert verdict_on_tests(Ended(-9, "", True)) == PartOutcome(True, words)
    assert verdict_on_tests(Ended(0, "== 40 passed ==\n", False)) == PartOutcome(False, "40 passed")


@pytest.fixture
def no_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No toolkit is named by the environment, and none is on PATH."""
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_without_a_sanitizer_the_part_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_toolkit: None
) -> None:
    """Which fails no run of all parts, but one of this part."""
    monkeypatch.setattr("bench.speed.gpu.sanitizers.find_sanitizer", lambda: None)
    outcome = run_sanitizers(tmp_path / "log", 60.0, False)
    assert (outcome.failed, outcome.ran) == (False, False)
    assert outcome.words.startswith("compute-sanitizer is neither on PATH nor beside nvcc")
    assert command.run_parts(["sanitize"], tmp_path, dry=False) == 0
    assert "| sanitize | NOT RUN in 0 s: compute-" in (tmp_path / "report.md").read_text()
    assert command.run_parts(["sanitize"], tmp_path, dry=False, wanted=["sanitize"]) == 1


def test_tools_that_all_refuse_have_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sanitizer_that(tmp_path, monkeypatch, 'echo "========= Error: Device not supported"; exit 1')
    outcome = run_sanitizers(tmp_path / "log", 60.0, False)
    assert (outcome.failed, outcome.ran) == (False, False)


@pytest.mark.parametrize("named_by", ["CUDA_HOME", "CUDA_PATH", "CUDACXX", "PATH"])
def test_the_sanitizer_is_found_beside_nvcc(
    named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_toolkit: None
) -> None:
    tool = tool_in(tmp_path / "cuda" / "bin", SANITIZER)
    nvcc = tool.with_name("nvcc")
    nvcc.write_text(tool.read_text())
    nvcc.chmod(0o755)
    (tmp_path / "empty").mkdir()
    link = tmp_path / "empty" / "nvcc"
    if named_by == "PATH":  # which holds a link to nvcc, and no sanitizer
        link.symlink_to(nvcc)
    else:
        monkeypatch.setenv(named_by, str(nvcc if named_by == "CUDACXX" else tmp_path / "cuda"))
    assert find_sanitizer() == str(tool)
    assert sanitizer_command("memcheck")[0] == str(tool)


# Is told to end while three tools are stuck, in threads, or while a part's one command is.
STOPPED = """
import signal, sys
from pathlib import Path
from bench.speed.gpu import command
from bench.common.limits import run_limited
from bench.speed.gpu.part import Part, PartOutcome

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore some

def stuck(log, limit, dry):
    run_limited(["sh", "-c", "echo working; echo $$ > pids; exec sleep 60"], log, limit)
    return PartOutcome(False, "not stuck")

command.PARTS["tests"] = Part(60.0, stuck)
sys.exit(command.run_parts(sys.argv[1:], Path("out"), dry=False))
"""


@pytest.mark.parametrize(
    ("part", "number"),
    [("tests", signal.SIGINT), ("tests", signal.SIGHUP), ("sanitize", signal.SIGTERM)],
)
def test_children_end_with_it(part: str, number: signal.Signals, tmp_path: Path) -> None:
    """And what there is by then is on disk. The signal comes again: `make` passes it on as well."""
    script = """case "$2" in
memcheck|racecheck) echo "working on $2"; echo $$ >> pids; exec sleep 60;;
esac
echo "========= ERROR SUMMARY: 0 errors of $2"
"""
    tool = tool_in(tmp_path / "bin", SANITIZER, script)
    out = tmp_path / "out"
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join([str(tool.parent), os.environ["PATH"]])
    pythonpath = os.pathsep.join([str(root), str(root / "tests")])
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, part],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": pythonpath},
        stdout=subprocess.DEVNULL,
    ) as process:
        log, pids = out / f"{part}.log", tmp_path / "pids"
        expected = {"tests": (1, "working"), "sanitize": (3, "errors of initcheck")}[part]
        deadline = time.monotonic() + 60.0
        while not (
            pids.exists()
            and len(pids.read_text().split()) == expected[0]
            and expected[1] in log.read_text()
        ):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        while process.poll() is None:  # at any time on its way to the end
            process.send_signal(number)
            time.sleep(0.02)
        assert process.wait(30.0) == 128 + number
    for pid in map(int, pids.read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    text = log.read_text()
    assert "working" in text
    assert text.count("working on") == (3 if part == "sanitize" else 0)
    assert re.search(r"\nFAILED in \d+ s: stopped from outside\n$", text)
    assert "stopped from outside" in (out / "report.md").read_text()


def test_results_are_replaced_in_one_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that is killed while it writes leaves what it had."""
    write_text(tmp_path / "summary.json", "{}")

    def killed(path: Path, text: str, **options: str) -> int:
        with path.open("w") as file:
            file.write(text[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "summary.json", '{"sizes": {}}')
    assert (tmp_path / "summary.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("target", "given", "build"),
    [("gpu", None, "cuda"), ("gpu", "auto", "auto"), ("build", None, ""), ("test", None, "")],
)
def test_make_gpu_asks_for_cuda_code(
    target: str, given: str | None, build: str, tmp_path: Path
) -> None:
    """A build without it would be benchmarked as if nothing had happened."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    python = tool_in(tmp_path / "bin", "python", 'echo "$1 $2 of build [$YFK_BUILD]"')
    env = {n: text for n, text in os.environ.items() if n not in ("YFK_BUILD", "MAKEFLAGS")}
    if given is not None:
        env["YFK_BUILD"] = given
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        ["make", target, f"PYTHON={python}"],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    told = re.findall(r"^\S+ \S+ of build \[.*\]$", done.stdout, re.M)
    assert told[0] == f"setup.py --quiet of build [{build}]"
    assert all(line.endswith(f"[{build}]") for line in told)


def test_parts_meet_on_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part alone renews its own line; a failed one fails the whole and stops no other."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    broken = {"tests": True}
    parts = {
        "tests": Part(
            9.0, lambda log, limit, dry: PartOutcome(broken["tests"], "2 failed | 40 passed")
        ),
        "sanitize": Part(9.0, lambda log, limit, dry: PartOutcome(False, "memcheck clean")),
        "named": Part(9.0, lambda log, limit, dry: 1 / 0, default=False),
    }
    monkeypatch.setattr(command, "PARTS", parts)
    assert command.main(["--out", str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text()
    assert "| tests | FAILED in 0 s: 2 failed / 40 passed |" in text
    assert "| sanitize | done in 0 s: memcheck clean |" in text
    assert "No benchmarks here yet" in text
    assert "named" not in text

    broken["tests"] = False
    assert command.main(["tests", "--out", str(tmp_path)]) == 0
    assert "sanitize" not in capsys.readouterr().out.splitlines()[-2]
    text = (tmp_path / "report.md").read_text()
    assert "| tests | done in 0 s: 2 failed / 40 passed |" in text
    assert "| sanitize | done in 0 s: memcheck clean |" in text


def test_a_broken_part_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "tests": Part(9.0, lambda log, limit, dry: 1 / 0),
        "sanitize": Part(9.0, lambda log, limit, dry: PartOutcome(False, "memcheck clean")),
    }
    monkeypatch.setattr(command, "PARTS", parts)
    assert command.run_parts(list(parts), tmp_path, dry=False) == 1
    text = (tmp_path / "report.md").read_text()
    assert "| tests | FAILED in 0 s: ZeroDivisionError: division by zero |" in text
    assert "| sanitize | done in 0 s: memcheck clean |" in text


def test_all_of_it_ends_within_six_minutes() -> None:
    """What says most comes first; half a minute is left for the build."""
    parts = {name: part for name, part in PARTS.items() if part.default}
    assert list(parts) == ["tests", "bench", "sanitize"]
    assert sum(part.limit + part.grace for part in parts.values()) <= 335.0


def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    assert command.main([]) == 1
    shown = capsys.readouterr()
    assert "stopped before the first line that needs a GPU" in shown.err
    assert "backend native: " in shown.out


def test_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["test"])
    assert (
        "no part 'test'; choose from tests, bench, sanitize, bench-all" in capsys.readouterr().err
    )


def test_page_of_an_empty_folder(tmp_path: Path) -> None:
    assert page.write(tmp_path).read_text() == f"# {tmp_path.name}\n\nNo benchmarks here yet.\n"
