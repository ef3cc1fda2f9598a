"""How the processes of one run find each other: by the variables that torchrun sets."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist

from yfkernels._checks import require

if TYPE_CHECKING:  # torch.distributed has them, but does not say so
    from torch._C._distributed_c10d import Store

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PREFIX = "yfkernels.asynchronous"
_TIMEOUT = timedelta(minutes=5)  # for the server to come


class Meeting(NamedTuple):
    """Where the processes meet.

    Attributes:
        store: what all of them read and write.
        rank: of this one; the server's is 0.
        world: number of them, the server included.
    """

    store: Store
    rank: int
    world: int


def is_server() -> bool:
    """Whether this process is the server: its rank is 0.

    Raises:
        RuntimeError: it has no rank; start it with torchrun.
    """
    return _rank() == 0


def meet() -> Meeting:
    """Opens the store of the server, or connects to it.

    Raises:
        RuntimeError: not started by torchrun.
        ValueError: no worker.
        OSError: the port is taken.
        ConnectionError: there is no server.
    """
    rank, world = _rank(), int(os.environ["WORLD_SIZE"])
    need = "at least 2, a server and a worker; torchrun --nproc-per-node sets it"
    require(world >= 2, "WORLD_SIZE", world, need)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # which opened one
    mine = rank == 0 and not of_torchrun
    try:
        # Without waiting for the workers: some may come later, or never.
        store: Store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=mine, timeout=_TIMEOUT, wait_for_workers=False
        )
    except (RuntimeError, TimeoutError) as error:
        if "EADDRINUSE" in str(error):
            why = f"port {port} is taken; set MASTER_PORT to a free one"
            raise OSError(errno.EADDRINUSE, why) from error
        raise ConnectionError(f"found no server at {host}:{port}: {error}") from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the keys of others are stale
    return Meeting(part_of(store, f"{_PREFIX} {attempt}"), rank, world)


def part_of(store: Store, name: str) -> Store:
    """A store whose keys are not those of other parts."""
    part: Store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
    return part


def _rank() -> int:
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise RuntimeError(
            f"{', '.join(missing)} not set: start the script with torchrun --nproc-per-node 3, "
            "for a server and two workers"
        )
    return int(os.environ["RANK"])
