"""Starting a server and its workers on one machine, each on its own."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence

from yfkernels._checks import is_count, require


def start(
    command: Sequence[str], workers: int, *, port: int | None = None
) -> list[subprocess.Popen[bytes]]:
    """Starts a command once for the server and once for each worker.

    As `torchrun --nproc-per-node` does, but torchrun ends all processes when one of them dies;
    here the others go on.

    Args:
        command: the program and its arguments, such as [sys.executable, "train.py"].
        workers: number of workers, >= 1.
        port: where they meet; None for a free one.

    Returns:
        The processes, the server's first.

    Raises:
        ValueError: an argument out of its range.
    """
    require(is_count(workers), "workers", workers, "an integer >= 1")
    ok = port is None or (is_count(port) and port < 2**16)
    require(ok, "port", port, "in 1 ... 65535, or None for a free one")
    shared = {
        "WORLD_SIZE": str(workers + 1),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port() if port is None else port),
    }
    return [
        subprocess.Popen(
            list(command), env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(workers + 1)
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
