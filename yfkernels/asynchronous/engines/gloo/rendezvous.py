"""How the processes of one run find each other: by the variables that torchrun sets."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from yfkernels._checks import require

if TYPE_CHECKING:  # torch.distributed has them, but does not say so
    from torch._C._distributed_c10d import Store

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PREFIX = "yfkernels.asynchronous"


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


def meet(timeout: float) -> Meeting:
    """Opens the store of the server, or connects to it.

    Raises:
        RuntimeError: not started by torchrun.
        ValueError: no worker.
        OSError: the port is taken.
        ConnectionError: there is no server.
    """
    _rank()
    world = int(os.environ["WORLD_SIZE"])
    need = "at least 2, a server and a worker; torchrun --nproc-per-node sets it"
    require(world >= 2, "WORLD_SIZE", world, need)
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, rank, world = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except (RuntimeError, TimeoutError) as error:
        if "EADDRINUSE" in str(error):
            raise OSError(
                errno.EADDRINUSE, f"port {where} is taken; set MASTER_PORT to a free one"
            ) from error
        raise ConnectionError(f"found no server at {where}: {error}") from error
    return Meeting(part_of(store, _PREFIX), rank, world)


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
