"""The bandwidth of the Ray engine's server, beside that of Ray alone between the same processes.

    python -m bench.speed.ray > bench/results/asynchronous/ray-<commit>.csv
    python -m bench.speed.ray --sizes 20 --workers 2 --rounds 40    # the target

In every round all workers make exchanges with Ray alone (an array of the model's size to an actor,
one back), and then with the engine: a push that the server applies, and the pull that answers it.
"bare" leaves the arrays where Ray puts them, read-only in shared memory; "copied" brings them to
where they are of use, as gloo does: the gradient to the server's, the parameters into the worker's
model. Workers compute nothing. What a worker needs for its exchanges is one line; the bandwidth is
that of all workers, gradients and parameters counted. Medians are written to the standard error.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from bench.common.environment import describe
from bench.speed import served
from bench.speed.served import parameters_of
from yfkernels.asynchronous import FlatBuffers, Request, Server, Service
from yfkernels.asynchronous.engines.ray.client import ActorLink
from yfkernels.asynchronous.engines.ray.server import Serving
from yfkernels.asynchronous.engines.wire import Ends, Layout

_WARM_UP = 3  # rounds
_WAYS = ("bare", "copied", "engine")


class NoStep(torch.optim.SGD):
    """Leaves what the engine itself costs."""

    def step(self, closure: Any = None) -> Any:
        return None


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "no step": partial(NoStep, lr=1e-3),
    **served.OPTIMIZERS,
}


def exchanges_of(megabytes: float) -> int:
    """In one turn: about 400 MB both ways."""
    return max(2, min(200, round(200 / megabytes)))


def make_service(megabytes: float, optimizer: str) -> Service:
    params = parameters_of(megabytes)
    return Service(Server(params, OPTIMIZERS[optimizer](params)))


class Echo:
    """Ray alone: takes an array and gives one."""

    def __init__(self, size: int) -> None:
        self._array, self._gradient = np.zeros((2, size), dtype=np.uint8)

    def trip(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        assert array.shape == self._array.shape
        return self._array

    def copied_trip(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        np.copyto(self._gradient, array)
        return self._array


class Worker:
    """Makes the exchanges of one turn, and tells how many seconds they took."""

    def __init__(self, megabytes: float, echo: Any, server: Any, token: int, number: int) -> None:
        torch.set_num_threads(1)
        self._echo = echo
        self._count = exchanges_of(megabytes)
        self._buffers = FlatBuffers(parameters_of(megabytes))
        self._buffers.gradients[0].normal_(std=1e-3)
        self._link = ActorLink(server, Ends(token, number, Layout.of(self._buffers)))
        self._reply = self._link.exchange(Request(""), None, self._buffers.parameters)
        self._array = self._buffers.gradients[0].view(torch.uint8).numpy()

    def bare(self) -> float:
        begun = time.perf_counter()
        for _ in range(self._count):
            array = ray.get(self._echo.trip.remote(self._array))
        assert array.shape == self._array.shape
        return time.perf_counter() - begun

    def copied(self) -> float:
        model = self._buffers.parameters[0].view(torch.uint8).numpy()
        begun = time.perf_counter()
        for _ in range(self._count):
            np.copyto(model, ray.get(self._echo.copied_trip.remote(self._array)))
        return time.perf_counter() - begun

    def engine(self) -> float:
        buffers = self._buffers
        begun = time.perf_counter()
        for _ in range(self._count):
            request = Request("", self._reply.version, None, 0.0)
            self._reply = self._link.exchange(request, buffers.gradients, buffers.parameters)
            assert self._reply.result is not None
            assert self._reply.result.applied
        return time.perf_counter() - begun


def race(
    workers: int, megabytes: float, optimizer: str, rounds: int
) -> Iterator[tuple[str, int, int, float]]:
    """(way, round, worker, seconds) for every turn after the first few."""
    flat = FlatBuffers(parameters_of(megabytes)).parameters[0]
    echo = ray.remote(Echo).options(num_cpus=0).remote(flat.nbytes)
    server = ray.remote(Serving).options(num_cpus=0).remote()
    token = ray.get(server.begin.remote(partial(make_service, megabytes, optimizer)))
    racer = ray.remote(Worker).options(num_cpus=0)
    numbers = range(1, workers + 1)
    racers = [racer.remote(megabytes, echo, server, token, number) for number in numbers]
    for turn in range(-_WARM_UP, rounds):
        for way in _WAYS:
            seconds = ray.get([getattr(each, way).remote() for each in racers])
            if turn >= 0:
                yield from ((way, turn, number, each) for number, each in zip(numbers, seconds))
    for actor in (echo, server, *racers):
        ray.kill(actor)


def main() -> None:
    """Writes the samples to the standard output, and the ratios to the standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=_numbers(int), default=[1, 2, 4, 8])
    parser.add_argument("--sizes", type=_numbers(float), default=[1, 5, 20, 80, 200])
    parser.add_argument("--optimizers", type=lambda text: text.split(","), default=["QHM"])
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # for the actors
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    facts = describe(torch.device("cpu"), "auto") | {"ray": ray.__version__}
    print("# " + "; ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    writer = csv.writer(sys.stdout)
    columns = ("workers", "megabytes", "optimizer", "round", "way", "worker", "exchanges")
    writer.writerow([*columns, "seconds"])
    for workers in options.workers:
        for megabytes in options.sizes:
            for optimizer in options.optimizers:
                moved = 2 * megabytes * exchanges_of(megabytes)
                mbps = {way: [0.0] * options.rounds for way in _WAYS}
                task = (workers, megabytes, optimizer)
                for way, turn, worker, seconds in race(*task, options.rounds):
                    row = [*task, turn, way, worker, exchanges_of(megabytes), f"{seconds:.6f}"]
                    writer.writerow(row)
                    mbps[way][turn] += moved / seconds
                print(f"{workers} workers, {megabytes:g} MB, {optimizer}:", file=sys.stderr)
                for way, all_of in mbps.items():
                    ratio = statistics.median(b / a for a, b in zip(all_of, mbps["engine"]))
                    shown = f"{way} {statistics.median(all_of):.0f} MB/s, engine {ratio:.2f} of it"
                    print(f"  {shown}", file=sys.stderr)


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(each) for each in text.split(",")]


if __name__ == "__main__":
    main()
