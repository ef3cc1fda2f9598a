"""The bandwidth of the gloo engine's server, beside that of gloo alone between the same processes.

    python -m bench.speed.gloo > bench/results/asynchronous/gloo-<commit>.csv
    python -m bench.speed.gloo --sizes 20 --workers 2 --rounds 40    # the target

In every round all workers make the same number of exchanges in three ways, and compute nothing:
  bare      with gloo alone: a tensor of the model's size to rank 0, one back;
  stepping  the same, and rank 0 takes the optimizer's step before it answers: the least that any
            server does, without the checks and with parameters that may be torn;
  engine    a push that the server checks and applies, and the pull that answers it.
What a worker needs for its exchanges is one line; the bandwidth is that of all workers, gradients
and parameters counted. Medians are written to the standard error.
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
from threading import Lock, Thread
from typing import Any

import torch
import torch.distributed as dist

from bench.common.environment import describe
from bench.speed.served import OPTIMIZERS, parameters_of
from yfkernels.asynchronous import FlatBuffers, Request, Server, Service
from yfkernels.asynchronous.engines import gloo
from yfkernels.asynchronous.engines.gloo.client import connect
from yfkernels.asynchronous.engines.gloo.rendezvous import Meeting, meet, part_of
from yfkernels.asynchronous.engines.gloo.server import Serving
from yfkernels.asynchronous.engines.wire import Layout
from yfkernels.asynchronous.flat import Gradients

_TIMEOUT = 120.0
_WARM_UP = 3  # rounds
_WAYS = ("bare", "stepping", "engine")


def exchanges_of(megabytes: float) -> int:
    """In one turn of a worker: about 200 MB both ways."""
    return max(2, min(200, round(100 / megabytes)))


class Stepping:
    """A server with nothing but an optimizer."""

    def __init__(self, buffers: FlatBuffers, optimizer: torch.optim.Optimizer) -> None:
        self.buffers = buffers
        self._optimizer = optimizer
        self._lock = Lock()

    def __call__(self, gradients: Gradients) -> None:
        with self._lock:
            self.buffers.attach(gradients)
            self._optimizer.step()


class Task:
    """One size of model and one optimizer, on the server and its workers.

    Args:
        meeting: of the processes, for this task alone.
        megabytes: size of the model, 10**6 bytes.
        rounds: how many turns each of the two gets.
    """

    def __init__(self, meeting: Meeting, megabytes: float, rounds: int) -> None:
        self.meeting = meeting
        self.megabytes = megabytes
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
        """(way, round, worker, seconds) for every turn after the first few."""
        pushes = (self.meeting.world - 1) * self.exchanges * self.rounds
        server = Server(self.params, OPTIMIZERS[optimizer](self.params))
        serving = Serving(Service(server, pushes=pushes), self.meeting, _TIMEOUT, _TIMEOUT)
        engine = Thread(target=serving.run)
        engine.start()
        others = parameters_of(self.megabytes)
        stepping = Stepping(FlatBuffers(others), OPTIMIZERS[optimizer](others))
        received = {rank: stepping.buffers.more_gradients() for rank in self.groups}
        for turn in range(self.rounds):
            for way, step in (("bare", None), ("stepping", stepping)):
                self.together(f"{way} {turn}")
                threads = [
                    Thread(
                        target=self._answer, args=(group, received[rank], stepping.buffers, step)
                    )
                    for rank, group in self.groups.items()
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            self.together(f"engine {turn}")
            self.together(f"end {turn}")
            for way in _WAYS:
                for rank in self.groups if turn >= _WARM_UP else ():
                    seconds = float(self.meeting.store.get(f"{way} {turn} {rank}"))
                    yield way, turn - _WARM_UP, rank, seconds
        engine.join()
        assert server.version.number == pushes

    def _answer(
        self, group: Any, received: Gradients, sent: FlatBuffers, step: Stepping | None
    ) -> None:
        for _ in range(self.exchanges):
            group.recv([received[0]], 1, 0).wait()
            if step is not None:
                step(received)
            group.send([sent.parameters[0]], 1, 0).wait()

    def work(self) -> None:
        """Makes all exchanges of one worker."""
        (group,) = self.groups.values()
        (sent,), (received,) = self.buffers.more_gradients(), self.buffers.more_gradients()
        link = connect(self.meeting, Layout.of(self.buffers), _TIMEOUT)
        reply = link.exchange(Request(""), None, self.buffers.parameters)
        for turn in range(self.rounds):
            for way in ("bare", "stepping"):
                with self._timed(way, turn):
                    for _ in range(self.exchanges):
                        group.send([sent], 0, 0).wait()
                        group.recv([received], 0, 0).wait()
            with self._timed("engine", turn):
                for _ in range(self.exchanges):
                    request = Request("", reply.version, None, 0.0)
                    reply = link.exchange(request, self.buffers.gradients, self.buffers.parameters)
            self.together(f"end {turn}")

    @contextmanager
    def _timed(self, way: str, turn: int) -> Iterator[None]:
        self.together(f"{way} {turn}")
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        self.meeting.store.set(f"{way} {turn} {self.meeting.rank}", str(seconds))


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
            seconds: dict[tuple[str, int], list[float]] = {}
            for way, turn, rank, each in task.serve(optimizer):
                row = [meeting.world - 1, megabytes, optimizer, turn, way, rank, task.exchanges]
                writer.writerow([*row, f"{each:.6f}"])
                seconds.setdefault((way, turn), []).append(each)
            moved = 2 * megabytes * task.exchanges
            mbps: dict[str, list[float]] = {way: [] for way in _WAYS}
            for (way, _), of_workers in seconds.items():
                mbps[way].append(sum(moved / each for each in of_workers))
            shown = [f"{way} {statistics.median(all_of):.0f}" for way, all_of in mbps.items()]
            for way in _WAYS[:2]:
                ratios = [ours / least for least, ours in zip(mbps[way], mbps["engine"])]
                shown.append(f"engine/{way} {statistics.median(ratios):.2f}")
            task_name = f"{meeting.world - 1} workers, {megabytes:g} MB, {optimizer}"
            print(f"{task_name}, MB/s: {', '.join(shown)}", file=sys.stderr)
    sys.stdout.flush()


def main() -> None:
    """Starts the processes, for each number of workers in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=_numbers(int), default=[1, 2, 4, 8])
    parser.add_argument("--sizes", type=_numbers(float), default=[1, 5, 20, 80, 200])
    parser.add_argument("--optimizers", type=_names, default=["QHM"])
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    if "RANK" in os.environ:
        run(options)
        return
    facts = describe(torch.device("cpu"), "auto")
    print("# " + "; ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    print("workers,megabytes,optimizer,round,way,worker,exchanges,seconds", flush=True)
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
