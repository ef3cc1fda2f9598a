"""A run over gloo: a process for the server and one for each worker, here or under torchrun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from yfkernels.asynchronous import Record, Service
from yfkernels.asynchronous.engines import gloo
from yfkernels.lab.asynchrony.options import Options
from yfkernels.lab.asynchrony.training import Training, build_worker
from yfkernels.lab.options import OptionError

_FAREWELL = 15.0  # seconds for workers to end after the server


def started_by_torchrun() -> bool:
    """Whether this process is one of several, its rank known."""
    return "RANK" in os.environ


def service_of(training: Training, file: Path, watch: Callable[[Record], None]) -> Service:
    """What answers the workers of a training.

    Args:
        training: new.
        file: of the checkpoint, which is written after every epoch too.
        watch: called with the record of each push.
    """

    def on_push(record: Record) -> None:
        training.record(record)
        watch(record)
        if training.hopeless:
            service.stop()

    service = Service(
        training.server,
        pushes=training.options.pushes,
        on_push=on_push,
        checkpoint=file,
        checkpoint_every=training.pushes_per_epoch,
        saved={"training": training},
    )
    return service


def serve(service: Service) -> None:
    """Trains with the workers of the other ranks to the end, or until Ctrl-C."""
    with stoppable():
        gloo.serve(service)


def work(options: Options) -> None:
    """Computes gradients until the server says that training has ended; Ctrl-C is the server's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(options.threads)
    gloo.work(*build_worker(options.build_task(), options.seed))


@contextmanager
def stoppable() -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends what is in the block, which then has seconds to close."""

    def stop(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, lambda *_: None)  # another one may be on its way
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


# ---- the process that starts the others


def launch(arguments: Sequence[str], workers: int, port: int | None) -> int:
    """Runs the command once for the server and once for each worker.

    Args:
        arguments: of the `yfkernels` command.
        workers: number of them.
        port: where they meet; None for a free one.

    Returns:
        The server's exit status, negative if a signal ended it.

    Raises:
        OptionError: the port is taken.
        KeyboardInterrupt: Ctrl-C came while the server could not heed it yet.
    """
    if port is not None and _is_taken(port):
        raise OptionError("port", port, "another program has it; leave it out for a free one")
    # Who ignores a signal leaves that to its children: a terminal sends Ctrl-C to all of them, and
    # the server alone is to hear of it, from here.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = [sys.executable, "-m", "yfkernels", *arguments]
    server, *others = gloo.start(command, workers, port=port)

    asked: list[int] = []

    def forward(number: int, _: object) -> None:
        asked.append(number)
        server.send_signal(signal.SIGTERM)

    handlers = {signal.SIGINT: before, signal.SIGTERM: signal.signal(signal.SIGTERM, forward)}
    signal.signal(signal.SIGINT, forward)
    try:
        status = server.wait()
        if status < 0:  # then nobody has told the workers
            for worker in others:
                worker.terminate()
        if asked and status == -signal.SIGTERM:
            raise KeyboardInterrupt
        return status
    finally:
        _end([server, *others])
        for each, handler in handlers.items():
            signal.signal(each, handler)


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits for processes, not for long."""
    for process in processes:
        try:
            process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
