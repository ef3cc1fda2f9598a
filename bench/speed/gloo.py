"""The bandwidth of the gloo engine's server, beside that of gloo alone between the same processes.

    python -m bench.speed.gloo > bench/results/asynchronous/gloo-<commit>.csv
    python -m bench.speed.gloo --sizes 20 --workers 2 --rounds 40    # the target

In every round all workers make exchanges with gloo alone (a tensor of the model's size to rank 0,
one back), and then with the engine: a push that the server applies, and the pull that answers it.
Workers compute nothing. What a worker needs for its exchanges is one line; the bandwidth is that of
all workers, gradients and parameters counted. Medians are written to the standard error.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import yfkernels
from bench.common.environment import describe
from yfkernels.asynchronous import FlatBuffers, Request, Server, Service
from yfkernels.asynchronous.engines import gloo
from yfkernels.asynchronous.engines.gloo.client import connect
from yfkernels.asynchronous.engines.gloo.rendezvous import Meeting, meet, part_of
from yfkernels.asynchronous.engines.gloo.server import Serving
from yfkernels.asynchronous.engines.wire import Layout

_TIMEOUT = 120.0
_WARM_UP = 3  # rounds
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD fused": partial(torch.optim.SGD, lr=1e-3, fused=True),
    "QHM": partial(yfkernels.QHM, lr=1e-3),
    "YellowFin": yfkernels.YellowFin,
}


def exchanges_of(megabytes: float) -> int:
    """In one turn: about 200 MB both ways."""
    return max(2, min(200, round(100 / megabytes)))


def parameters_of(megabytes: float) -> list[nn.Parameter]:
    """16 equal float32 parameters."""
    return [nn.Parameter(torch.zeros(round(megabytes * 1e6 / 4 / 16))) for _ in range(16)]


class Task:
    """One size of model and one optimizer, on the server and its workers.

    Args:
        meeting: of the processes, for this task alone.
        megabytes: size of the model, 10**6 bytes.
        rounds: how many turns each of the two gets.
    """

    def __init__(self, meeting: Meeting, megabytes: float, rounds: int) -> None:
        self.meeting = meeting
        self.rounds = rounds + _WARM_UP
        self.exchanges = exchanges_of(megabytes)
        self.params = parameters_of(megabytes)
        self.buffers = FlatBuffers(self.params)
        ranks = range(1, meeting.world) if meeting.rank == 0 else [meeting.rank]
        self.groups = {rank: self._pair(rank) for rank in ranks}

    def _pair(self, rank: int) -> Any:
        store = part_of(self.meeting.store, f"bare {rank}")
        place = min(self.meeting.rank, 1)
        return dist.ProcessGroupGloo(store, place, 2, timedelta(seconds=_TIMEOUT))

    def together(self, name: str) -> None:
        """Waits until all processes are here."""
        store = self.meeting.store
        if store.add(name, 1) == self.meeting.world:
            store.set(f"{name}, all", "")
        while not store.check([f"{name}, all"]):  # wait() would keep the engine from the store
            time.sleep(0.001)

    def serve(self, optimizer: str) -> Iterator[tuple[str, int, int, float]]:
        """(who, round, worker, seconds) for every turn after the first few."""
        pushes = (self.meeting.world - 1) * self.exchanges * self.rounds
        server = Server(self.params, OPTIMIZERS[optimizer](self.params))
        serving = Serving(Service(server, pushes=pushes), self.meeting, _TIMEOUT, _TIMEOUT)
        engine = Thread(target=serving.run)
        engine.start()
        answering = [partial(self._answer, group, *self._two()) for group in self.groups.values()]
        for turn in range(self.rounds):
            self.together(f"bare {turn}")
            threads = [Thread(target=answer) for answer in answering]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.together(f"engine {turn}")
            self.together(f"end {turn}")
            for who in ("bare", "engine"):
                for rank in self.groups if turn >= _WARM_UP else ():
                    seconds = float(self.meeting.store.get(f"{who} {turn} {rank}"))
                    yield who, turn - _WARM_UP, rank, seconds
        engine.join()
        assert server.version.number == pushes

    def _two(self) -> tuple[torch.Tensor, torch.Tensor]:
        (flat,) = self.buffers.parameters
        return torch.zeros_like(flat), torch.zeros_like(flat)

    def _answer(self, group: Any, received: torch.Tensor, sent: torch.Tensor) -> None:
        for _ in range(self.exchanges):
            group.recv([received], 1, 0).wait()
            group.send([sent], 1, 0).wait()

    def work(self) -> None:
        """Makes all exchanges of one worker."""
        (group,) = self.groups.values()
        sent, received = self._two()
        link = connect(self.meeting, Layout.of(self.buffers), _TIMEOUT)
        reply = link.exchange(Request(""), None, self.buffers.parameters)
        for turn in range(self.rounds):
            with self._timed("bare", turn):
                for _ in range(self.exchanges):
                    group.send([sent], 0, 0).wait()
                    group.recv([received], 0, 0).wait()
            with self._timed("engine", turn):
                for _ in range(self.exchanges):
                    request = Request("", reply.version, None, 0.0)
                    reply = link.exchange(request, self.buffers.gradients, self.buffers.parameters)
            self.together(f"end {turn}")

    @contextmanager
    def _timed(self, who: str, turn: int) -> Iterator[None]:
        self.together(f"{who} {turn}")
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        self.meeting.store.set(f"{who} {turn} {self.meeting.rank}", str(seconds))


def run(options: argparse.Namespace) -> None:
    """One process of the race."""
    torch.set_num_threads(1)
    meeting = meet()
    writer = csv.writer(sys.stdout)
    for megabytes in options.sizes:
        for optimizer in options.optimizers:
            part = part_of(meeting.store, f"{megabytes} {optimizer}")
            task = Task(meeting._replace(store=part), megabytes, options.rounds)
            if meeting.rank > 0:
                task.work()
                continue
            mbps: dict[str, list[float]] = {"bare": [], "engine": []}
            seconds: dict[tuple[str, int], list[float]] = {}
            for who, turn, rank, each in task.serve(optimizer):
                row = [meeting.world - 1, megabytes, optimizer, turn, who, rank, task.exchanges]
                writer.writerow([*row, f"{each:.6f}"])
                seconds.setdefault((who, turn), []).append(each)
            for (who, _), of_workers in seconds.items():
                moved = 2 * megabytes * task.exchanges
                mbps[who].append(sum(moved / each for each in of_workers))
            ratio = statistics.median(b / a for a, b in zip(mbps["bare"], mbps["engine"]))
            shown = ", ".join(
                f"{who} {statistics.median(all_of):.0f}" for who, all_of in mbps.items()
            )
            print(
                f"{meeting.world - 1} workers, {megabytes:g} MB, {optimizer}: {shown} MB/s, "
                f"median ratio {ratio:.2f}",
                file=sys.stderr,
            )
    sys.stdout.flush()


def main() -> None:
    """Starts the processes, for each number of workers in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=_numbers(int), default=[1, 2, 4, 8])
    parser.add_argument("--sizes", type=_numbers(float), default=[1, 5, 20, 80, 200])
    parser.add_argument("--optimizers", type=_names, default=["QHM"])
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    if "RANK" in os.environ:
        run(options)
        return
    facts = describe(torch.device("cpu"), "auto")
    print("# " + "; ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    print("workers,megabytes,optimizer,round,who,worker,exchanges,seconds", flush=True)
    for workers in options.workers:
        command = [sys.executable, "-W", "ignore", "-m", "bench.speed.gloo", *sys.argv[1:]]
        processes = gloo.start(command, workers)
        try:
            if any([process.wait() for process in processes]):
                sys.exit(1)
        finally:
            for process in processes:
                process.kill()


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(each) for each in text.split(",")]


def _names(text: str) -> list[str]:
    return [name for name in OPTIMIZERS if name in text.split(",")]


if __name__ == "__main__":
    main()
