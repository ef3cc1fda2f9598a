"""What the tests with several processes share."""

from __future__ import annotations

import gc
import multiprocessing.connection
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

WORLD = 2
NO_FSDP2 = f"torch {torch.__version__} has no public fully_shard; 2.6 is the first that has"


@contextmanager
def gloo_group(rank: int, world: int, store: str) -> Iterator[None]:
    """The default process group, over a file; left together unless something failed."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    yield
    gc.collect()  # DDP and FSDP hold on to the group in cycles
    dist.barrier()  # nobody leaves while others still listen
    dist.destroy_process_group()


class Processes:
    """Processes in one gloo group, two by default, that run one check after the other.

    To start them and import torch takes longer than most checks, so they serve a whole session.
    """

    def __init__(self, world: int = WORLD) -> None:
        self._world = world
        self._folder = tempfile.TemporaryDirectory(prefix="processes-")
        self._starts = 0
        self._workers: list[tuple[Any, Any]] = []

    def __call__(self, check: Callable[..., None], *args: Any) -> None:
        """Runs check(rank, *args) in all processes at once; raises if it fails in any."""
        if not self._workers:
            self._start()
        connections = [connection for _, connection in self._workers]
        for connection in connections:
            connection.send((check, args))
        failures = self._failures(connections)
        if failures:
            self.stop()  # some of them may still wait for the others
            raise AssertionError("\n".join(failures))

    def _failures(self, connections: list[Any]) -> list[str]:
        failures = []
        waiting, deadline = list(connections), time.monotonic() + 120.0
        while waiting:
            remaining = deadline - time.monotonic()
            ready = multiprocessing.connection.wait(waiting, max(0.0, remaining))
            if not ready:
                ranks = [connections.index(connection) for connection in waiting]
                return [*failures, f"rank {ranks} did not finish in time"]
            for connection in ready:
                waiting.remove(connection)
                rank = connections.index(connection)
                try:
                    failure = connection.recv()
                except EOFError:
                    failure = "the process died"
                if failure is not None:
                    failures.append(f"rank {rank}: {failure}")
                    deadline = min(deadline, time.monotonic() + 5.0)
        return failures

    def _start(self) -> None:
        context = torch.multiprocessing.get_context("spawn")
        store = str(Path(self._folder.name) / f"store-{self._starts}")
        self._starts += 1
        for rank in range(self._world):
            mine, theirs = context.Pipe()
            worker = context.Process(
                target=_serve, args=(rank, self._world, store, theirs), daemon=True
            )
            worker.start()
            theirs.close()
            self._workers.append((worker, mine))

    def stop(self) -> None:
        """Ends the processes, in the middle of a check if need be."""
        for worker, connection in self._workers:
            connection.close()
            worker.kill()
            worker.join()
        self._workers = []


def _serve(rank: int, world: int, store: str, connection: Any) -> None:
    warnings.simplefilter("ignore")
    with gloo_group(rank, world, store):
        while True:
            try:
                check, args = connection.recv()
            except EOFError:
                return
            if not gc.get_freeze_count():
                gc.freeze()  # the modules, which else are most of what collect() looks through
            try:
                check(rank, *args)
                gc.collect()
                dist.barrier()
            except BaseException:
                connection.send(traceback.format_exc())
            else:
                connection.send(None)


# Four processes as one row of shards, and as two replicas of two shards.
MESHES = {"FSDP2": {"shard": 4}, "HSDP": {"replicate": 2, "shard": 2}}


def mesh_of(name: str) -> Any:
    """One of MESHES, over all processes."""
    from torch.distributed.device_mesh import init_device_mesh

    names, sizes = zip(*MESHES[name].items())
    return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def everyones(value: Any) -> list[Any]:
    """What each process has for `value`, in every process."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
