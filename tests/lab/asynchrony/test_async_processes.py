"""`yfkernels async` with real processes: over gloo, started here or by torchrun; over Ray."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from typer.testing import CliRunner, Result

from yfkernels.lab import cli

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 120.0  # seconds: a busy machine takes long to start processes
FEW = ("--workers", "2", "--workload", "digits-mlp", "--batch-size", "128")  # 11 an epoch


def arguments(engine: str, out: Path, *more: str) -> list[str]:
    return ["async", "--engine", engine, "--out", str(out), *FEW, *more]


@contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a process group of its own, as a terminal has it; nothing of it is left."""
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
    )
    timer = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "async.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def said(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def assert_every_batch_counted_once(written: list[dict[str, str]], epochs: int) -> None:
    applied = [row for row in written if row["applied"] == "True"]
    assert [int(row["step"]) for row in applied] == list(range(1, 11 * epochs + 1))
    assert Counter(row["epoch"] for row in applied) == {str(e + 1): 11 for e in range(epochs)}
    assert all(row[name] for row in applied[-3:] for name in ("lr", "momentum", "target_momentum"))


def test_gloo_is_interrupted_and_resumed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a terminal goes to all processes; the server alone heeds it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = ("-m", "yfkernels", *arguments("gloo", tmp_path, "--epochs", "30"))
    with command(*words) as run:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGINT)
        printed, _ = run.communicate()
    assert run.returncode == 130, printed
    assert "Interrupted: the same command with --resume goes on from here." in said(printed)
    assert "Traceback" not in printed
    cut = rows(tmp_path)
    assert 11 <= len(cut) < 330
    result = invoke(*words[2:], "--resume")
    printed = capfd.readouterr().out  # by the server
    assert result.exit_code == 0, printed
    written = rows(tmp_path)
    assert written[: len(cut)] == cut
    assert_every_batch_counted_once(written, epochs=30)
    assert {row["worker"] for row in written} == {"rank 1", "rank 2"}
    assert "2 workers (gloo)" in said(printed)
    assert (tmp_path / "async.png").exists()


def invoke(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(cli.app, words)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = invoke(*arguments("gloo", tmp_path / "out", "--port", port))
    assert result.exit_code == 2
    assert f"'--port': Invalid port value: {port}; another program has it" in said(result.output)


@pytest.mark.parametrize(
    ("world", "given", "complaint"),
    [
        ("4", ["--workers", "2"], "torchrun has started 3 beside the server; leave it out, or"),
        (
            "2",
            [],
            "Invalid workers value: 1; with a single worker no gradient is ever stale; torch",
        ),
        ("3", ["--port", "29500"], "Invalid port value: 29500; torchrun has --master-port"),
    ],
)
def test_what_does_not_fit_torchrun_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world: str,
    given: list[str],
    complaint: str,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", world)
    result = invoke("async", "--engine", "gloo", "--out", str(tmp_path / "out"), *given)
    assert result.exit_code == 2
    assert complaint in said(result.output)


def test_ray_trains_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="there is no Ray here; `make test-ray` installs it")
    with command("-m", "yfkernels", *arguments("ray", tmp_path, "--pushes", "25")) as run:
        printed, _ = run.communicate()
    assert run.returncode == 0, printed
    written = rows(tmp_path)
    assert {row["worker"] for row in written} <= {"worker 1", "worker 2"}
    applied = [row["step"] for row in written if row["applied"] == "True"]
    assert applied == [str(step) for step in range(1, 26)]
    assert "2 workers (ray)" in said(printed)


def test_an_address_without_a_cluster_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="there is no Ray here; `make test-ray` installs it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        result = invoke(*arguments("ray", tmp_path, "--address", address))
    assert result.exit_code == 2
    assert f"'{address}'; no Ray cluster answers there" in said(result.output)
