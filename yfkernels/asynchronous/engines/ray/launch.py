"""Starting a server and workers on Ray: on this machine, or on a cluster that there is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from yfkernels._checks import check_positive, is_count, require
from yfkernels.asynchronous.engines.ray.client import Loss
from yfkernels.asynchronous.engines.ray.run import Outcome, Run
from yfkernels.asynchronous.server import Server
from yfkernels.asynchronous.service import Service

_NONE: Mapping[str, Any] = MappingProxyType({})


def start(
    make_server: Callable[[], Server | Service],
    make_worker: Callable[[], tuple[nn.Module, Loss]],
    *,
    workers: int,
    address: str | None = None,
    grace: float = 60.0,
    worker_options: Mapping[str, Any] = _NONE,
    server_options: Mapping[str, Any] = _NONE,
) -> Run:
    """Starts a server actor and workers, for `Run.wait`, and `Run.add` meanwhile.

    A worker that dies, is on a node that dies, raises, or sends what does not fit is served no
    longer: its batch is lent to others, which go on. Others may join at any time. Gradients and
    parameters travel through Ray's shared memory, and between machines as Ray sends objects.

    Ray itself pickles the calls of its actors. So whoever may join the cluster may run any code in
    it: keep it closed. What a worker pushes is checked all the same, as in every engine.

    Args:
        make_server: makes what is trained; called once, in the server's process. A `Service` for a
            callback, a checkpoint or a number of pushes; to resume, call its `resume` here.
        make_worker: makes a worker's model, of the server's architecture, and its loss; called once
            in each worker's process. The loss computes that of the model; it is called with the
            indices of a batch, or with None if the server has no batches.
        workers: how many to begin with, >= 1.
        address: of a cluster, as `ray.init` takes it: "auto" for the one that this machine is in.
            None to start Ray here, for this run alone. Where the program has called `ray.init`
            itself, that is used, and nothing is to be given here.
        grace: seconds that workers have, at the end, to finish their gradient and be told.
        worker_options: Ray's options of a worker's task: num_cpus, 1 by default; num_gpus;
            resources; scheduling_strategy, ... Threads follow num_cpus.
        server_options: likewise of the server actor; by default num_cpus is 0, and it runs on the
            machine of the program that starts it.

    Raises:
        ImportError: there is no Ray.
        TypeError, ValueError: an argument out of its range.
        ConnectionError: there is no cluster at the address.

    Example, of a whole program:

        def make_server():
            model = torch.nn.Linear(8, 1)
            optimizer = yfkernels.YellowFin(model.parameters())
            return Server(model, optimizer, batches=Batches(512, 32, epochs=10))

        def make_worker():
            torch.manual_seed(0)
            x, y = torch.randn(512, 8), torch.randn(512, 1)
            model = torch.nn.Linear(8, 1)
            return model, lambda rows: (model(x[list(rows)]) - y[list(rows)]).square().mean()

        with ray.start(make_server, make_worker, workers=2) as run:
            run.add(1)
            outcome = run.wait()
    """
    require(is_count(workers), "workers", workers, "an integer >= 1")
    check_positive("grace", grace)
    owns_ray = _connect(address)
    run = Run(
        make_server,
        make_worker,
        grace=grace,
        worker_options=worker_options,
        server_options=server_options,
        owns_ray=owns_ray,
    )
    run.add(workers)
    return run


def train(
    make_server: Callable[[], Server | Service],
    make_worker: Callable[[], tuple[nn.Module, Loss]],
    **options: Any,
) -> Outcome:
    """Starts a server actor and workers, and trains to the end.

    Args:
        make_server, make_worker, options: as of `start`.

    Raises:
        ImportError, TypeError, ValueError: as of `start`.
        RuntimeError, ConnectionError: as of `Run.wait`.
    """
    with start(make_server, make_worker, **options) as run:
        return run.wait()


def _connect(address: str | None) -> bool:
    """Connects to Ray; whether it was not connected before."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "the Ray engine needs Ray: pip install 'yfkernels[ray]', or pip install ray numpy"
        ) from error
    if ray.is_initialized():
        need = "None: this program is connected to a cluster already"
        require(address is None, "address", address, need)
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported unasked
    here = {"include_dashboard": False} if address is None else {}
    ray.init(address=address or "local", **here)
    return True
