"""Run a command under a time limit, showing and keeping its output line by line.

A command runs in a session of its own, to be killed with all that it started. So no signal of a
terminal reaches it, and a program that runs commands ends them itself when it is told to end:
`children_end_with_us`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socketpair
from threading import Event, Thread, Timer
from types import FrameType

GRACE = 10.0  # seconds between asking and killing
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # by Ctrl-C, `timeout`, a lost terminal
_running: set[subprocess.Popen[str]] = set()  # of all threads
_told_to_end = Event()


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, negative for a signal, and all that it printed."""

    status: int
    output: str
    timed_out: bool


def run_limited(
    command: Sequence[str],
    log: Path,
    limit: float,
    env: Mapping[str, str] | None = None,
    grace: float = GRACE,
) -> Ended:
    """Run a command, its output to the terminal and appended to a log.

    Args:
        command: program and arguments.
        log: the file.
        limit: seconds after which it is interrupted as by Ctrl-C.
        env: its environment.
        grace: seconds after which it and all processes it started are then killed.
    """
    timed_out = False
    lines = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a group of its own, to be killed together
        ) as process,
    ):

        def interrupt() -> None:
            nonlocal timed_out
            timed_out = True
            process.send_signal(signal.SIGINT)
            killer.start()

        def kill() -> None:
            _kill(process)

        _running.add(process)
        killer = Timer(grace, kill)
        interrupter = Timer(limit, interrupt)
        interrupter.start()
        assert process.stdout is not None
        try:
            if _told_to_end.is_set():  # while it started
                kill()
            for line in process.stdout:
                print(line, end="", flush=True)
                file.write(line)
                file.flush()
                lines.append(line)
        except BaseException:  # Ctrl-C does not reach another session by itself
            kill()
            raise
        finally:
            interrupter.cancel()
            killer.cancel()
            _running.discard(process)
    return Ended(process.returncode, "".join(lines), timed_out)


@contextmanager
def children_end_with_us() -> Iterator[None]:
    """Within it, a signal to end kills the commands of all threads, then raises SystemExit.

    Killed and not asked, because whoever sent the signal may kill this process next. Later ones
    are ignored up to the end of the process, so that what there is can be written: `timeout` sends
    one, and so does `make`.
    """
    ending = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    def watch() -> None:
        # A handler runs in the main thread, which may be waiting for a command, or for a thread
        # that does, and need not wake up for a signal that another thread received.
        while came := reader.recv(1):
            if came[0] in _ENDING:
                _told_to_end.set()
                for process in tuple(_running):
                    _kill(process)

    heeded = [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]  # not by nohup
    reader, writer = socketpair()
    writer.setblocking(False)
    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    woken_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {each: signal.signal(each, end) for each in heeded}
    try:
        yield
    finally:
        if not ending:
            for number, handler in before.items():
                signal.signal(number, handler)
        signal.set_wakeup_fd(woken_before)
        writer.close()
        watcher.join()
        reader.close()
        _told_to_end.clear()


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # all of them have ended by now
        os.killpg(process.pid, signal.SIGKILL)
