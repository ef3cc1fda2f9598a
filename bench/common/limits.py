"""Run a command under a time limit, showing and keeping its output line by line."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

GRACE = 10.0  # seconds between asking and killing


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
            os.killpg(process.pid, signal.SIGKILL)

        killer = Timer(grace, kill)
        interrupter = Timer(limit, interrupt)
        interrupter.start()
        assert process.stdout is not None
        try:
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
    return Ended(process.returncode, "".join(lines), timed_out)
