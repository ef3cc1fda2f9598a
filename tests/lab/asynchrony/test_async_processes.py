"""`yfkernels async` with real processes: ranks over gloo, what starts them, and Ray."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from typer.testing import CliRunner, Result

from yfkernels.asynchronous import Record
from yfkernels.asynchronous.engines import gloo
from yfkernels.lab import cli
from yfkernels.lab.asynchrony import processes
from yfkernels.lab.asynchrony.training import Training

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 120.0  # seconds: a busy machine takes long to start processes
FEW = ("--workers", "2", "--workload", "digits-mlp", "--batch-size", "128")  # 11 an epoch
EPOCHS = 10
CUT = 16  # pushes


def arguments(engine: str, out: Path, *more: str) -> list[str]:
    return ["async", "--engine", engine, "--out", str(out), *FEW, *more]


def invoke(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(cli.app, words)


def said(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "async.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- the ranks, as torchrun or the command starts them


class Ranks:
    """The server and two workers, forked from a process that has imported what they need."""

    def __init__(self, words: Sequence[str], printed: Path, mark: Path | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["yfkernels.lab.asynchrony.run", "sklearn.datasets"])
        port = free_port()
        self._printed = printed
        self._processes = [
            context.Process(target=play, args=(list(words), rank, port, printed, mark))
            for rank in range(3)
        ]
        for process in self._processes:
            process.start()

    def interrupt(self, mark: Path) -> None:
        """Ctrl-C in a terminal goes to all of them, here when the server has made its mark."""
        deadline = time.monotonic() + PATIENCE
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        for process in self._processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)
        mark.unlink()

    def ended(self) -> tuple[list[int | None], str]:
        """Their exit statuses, and what they printed."""
        deadline = time.monotonic() + PATIENCE
        try:
            for process in self._processes:
                process.join(max(0.0, deadline - time.monotonic()))
            return [process.exitcode for process in self._processes], self._printed.read_text()
        finally:
            for process in self._processes:
                process.kill()
                process.join()


def play(words: list[str], rank: int, port: int, printed: Path, mark: Path | None) -> None:
    """One rank. The server makes its mark after some pushes, and waits until it is gone."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3", "COLUMNS": "100"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TERM": "dumb"}
    sys.argv = ["yfkernels", *words]
    record = Training.record

    def record_and_wait(training: Training, each: Record) -> None:
        record(training, each)
        if mark is not None and len(training.rows) == CUT:
            mark.touch()
            while mark.exists():
                time.sleep(0.01)

    Training.record = record_and_wait  # type: ignore[method-assign]
    with printed.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        cli.main()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_gloo_is_interrupted_and_resumed(tmp_path: Path) -> None:
    """The server heeds Ctrl-C and tells the workers; every batch counts once in an epoch."""
    out = tmp_path / "out"
    words = arguments("gloo", out, "--epochs", str(EPOCHS))
    ranks = Ranks(words, tmp_path / "interrupted.txt", mark=tmp_path / "mark")
    ranks.interrupt(tmp_path / "mark")
    exits, printed = ranks.ended()
    assert exits == [130, 0, 0], printed
    assert "Interrupted: the same command with --resume goes on from here." in said(printed)
    assert "Traceback" not in printed
    cut = rows(out)
    assert CUT <= len(cut) < 11 * EPOCHS

    exits, printed = Ranks([*words, "--resume"], tmp_path / "resumed.txt").ended()
    assert exits == [0, 0, 0], printed
    assert "2 workers (gloo)" in said(printed)
    written = rows(out)
    assert written[: len(cut)] == cut
    assert {row["worker"] for row in written} <= {"worker 1", "worker 2"}  # one may come too late
    applied = [row for row in written if row["applied"] == "True"]
    assert [int(row["step"]) for row in applied] == list(range(1, 11 * EPOCHS + 1))
    assert set(Counter(row["epoch"] for row in applied).values()) == {11}
    assert all(row[name] for row in applied[-3:] for name in ("lr", "momentum", "target_momentum"))
    assert (out / "async.png").exists()


# ---- the process that starts them

ROLE = """
import os, signal, sys, time
rank, how, folder = int(os.environ["RANK"]), sys.argv[1], sys.argv[2]
ignores = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
if how != "starts":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
open(f"{folder}/{rank}-{os.environ['WORLD_SIZE']}-{ignores}", "w").close()
if how == "fails" and rank == 0:
    sys.exit(3)
if how == "dies" and rank == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if how in ("dies", "starts") or (how == "waits" and rank == 0):
    time.sleep(100.0)
"""


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], int]:
    """Starts small programs in place of the command."""
    start = gloo.start

    def start_roles(command: Sequence[str], *args: Any, **options: Any) -> Any:
        assert command[1:3] == ["-m", "yfkernels"]
        return start([sys.executable, "-S", "-c", ROLE, *command[3:]], *args, **options)

    monkeypatch.setattr(gloo, "start", start_roles)
    return lambda how: processes.launch([how, str(tmp_path)], 2, None)


@pytest.mark.parametrize(("how", "status"), [("ends", 0), ("fails", 3)])
def test_the_command_ends_as_the_server_does(
    launch: Callable[[str], int], tmp_path: Path, how: str, status: int
) -> None:
    """And a Ctrl-C of the terminal's, which goes to all processes, is for the command alone."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert launch(how) == status
    assert {path.name for path in tmp_path.iterdir()} == {f"{rank}-3-True" for rank in range(3)}
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@contextmanager
def interrupted(folder: Path, number: int) -> Iterator[None]:
    """As soon as all three have started, this process gets a signal."""

    def interrupt() -> None:
        deadline = time.monotonic() + PATIENCE
        while len(list(folder.iterdir())) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_tells_the_server_to_stop(
    launch: Callable[[str], int], tmp_path: Path, number: int
) -> None:
    with interrupted(tmp_path, number):
        assert launch("waits") == 130


def test_ctrl_c_before_the_server_can_heed_it(launch: Callable[[str], int], tmp_path: Path) -> None:
    """All of them end at once."""
    begun = time.monotonic()
    with interrupted(tmp_path, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        launch("starts")
    assert time.monotonic() - begun < processes._FAREWELL


def test_ctrl_c_while_it_starts_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "launch", interrupt)
    result = invoke(*arguments("gloo", tmp_path))
    assert result.exit_code == 130
    assert "Interrupted before training began." in said(result.output)


def test_workers_do_not_outlive_the_server(
    launch: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_FAREWELL", 0.1)
    begun = time.monotonic()
    assert launch("dies") == -signal.SIGKILL
    assert time.monotonic() - begun < 50.0  # they sleep for longer


def test_a_killed_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "launch", lambda *_: -9)
    result = invoke(*arguments("gloo", tmp_path))
    assert result.exit_code == 1
    need = "Error: signal 9 ended the server; --resume goes on from its last checkpoint"
    assert need in said(result.output)


def test_the_ranks_get_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(processes, "launch", lambda *args: given.append(args) or 0)
    words = ["--optimizer", "lamb:lr=0.02,preset=timm", "--rule", "drop_older:8", "--seed", "7"]
    more = ["--max-staleness", "0", "--pushes", "50", "--port", "29123", "--threads", "2"]
    assert invoke(*arguments("gloo", tmp_path, *words, *more)).exit_code == 0
    command, workers, port = given[0]
    assert (workers, port) == (2, 29123)
    assert invoke(*command).exit_code == 0  # means the same as what it was made of
    assert given[1] == (command, 2, None)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = invoke(*arguments("gloo", tmp_path / "out", "--port", port))
    assert result.exit_code == 2
    assert f"'--port': {port}; another program has it" in said(result.output)


NO_FIT = {
    "workers": ("4", ["--workers", "2"], "2; torchrun has started 3 beside the server; leave it"),
    "one": ("2", [], "'--workers': 1; torchrun has to start 3 processes"),
    "port": ("3", ["--port", "29500"], "'--port': 29500; torchrun has --master-port"),
}


@pytest.mark.parametrize(("world", "given", "complaint"), NO_FIT.values(), ids=NO_FIT)
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
    monkeypatch.setenv("RANK", "1")  # which leaves the words to the server
    result = invoke("async", "--engine", "gloo", "--out", str(tmp_path / "out"), *given)
    assert (result.exit_code, result.output) == (2, "")


# ---- Ray


def test_ray_is_interrupted_and_resumed(tmp_path: Path) -> None:
    """As a whole program, with which Ray shuts down."""
    pytest.importorskip("ray", reason="there is no Ray here; `make test-ray` installs it")
    words = arguments("ray", tmp_path, "--epochs", "300")
    command = [sys.executable, "-m", "yfkernels", *words]
    options: dict[str, Any] = {"cwd": ROOT, "text": True, "stdout": subprocess.PIPE}
    options["env"] = {**os.environ, "COLUMNS": "100"}
    with subprocess.Popen(command, **options) as run:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        printed, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130, printed
    cut = rows(tmp_path)
    assert 11 <= len(cut) < 3300
    ran = subprocess.run([*command, "--resume"], timeout=PATIENCE, check=True, **options)
    assert "2 workers (ray)" in said(ran.stdout)
    written = rows(tmp_path)
    assert written[: len(cut)] == cut
    assert {row["worker"] for row in written} <= {"worker 1", "worker 2"}
    applied = [row["step"] for row in written if row["applied"] == "True"]
    assert applied == [str(step) for step in range(1, 3301)]


def test_an_address_without_a_cluster_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="there is no Ray here; `make test-ray` installs it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        result = invoke(*arguments("ray", tmp_path, "--address", address))
    assert result.exit_code == 2
    assert f"'{address}'; no Ray cluster answers there" in said(result.output)
