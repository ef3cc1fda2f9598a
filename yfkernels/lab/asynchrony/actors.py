"""A run over Ray: the server and the workers are actors and tasks, here or on a cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from yfkernels.asynchronous import Record, Service
from yfkernels.asynchronous.engines import ray as engine
from yfkernels.lab.asynchrony.options import Options
from yfkernels.lab.asynchrony.processes import service_of, stoppable
from yfkernels.lab.asynchrony.training import Loss, Training, build_worker
from yfkernels.lab.options import OptionError

_NO_CLUSTER = (
    "no Ray cluster answers there; give what `ray start` printed, or auto on its machines, and its "
    "RAY_AUTH_TOKEN if it has one"
)
_PATIENCE = 10.0  # seconds


def train(
    options: Options,
    file: Path,
    watch: Callable[[Record], None],
    *,
    resume: bool,
    address: str | None,
) -> None:
    """Trains to the end, or until Ctrl-C; what came of it is in the checkpoint.

    Args:
        options: completed.
        file: of the checkpoint.
        watch: called five times a second with the record of the last push.
        resume: whether to go on from the checkpoint.
        address: of a cluster; None to start Ray here.

    Raises:
        OptionError: no cluster at the address.
    """
    # Here all of them share the cores there are. On a cluster Ray places them.
    cpus = 0 if address is None else options.threads
    if address is not None:
        _find(address)
    try:
        run = engine.start(
            partial(_make_service, options, file.absolute(), resume),
            partial(_make_worker, options),
            workers=options.workers,
            address=address,
            worker_options={"num_cpus": cpus},
        )
    except ConnectionError as error:
        raise OptionError("address", address, _NO_CLUSTER) from error
    with run, stoppable():
        run.wait(watch)


def _find(address: str) -> None:
    """Raises OptionError where nobody listens: Ray itself waits there for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():  # "auto", which Ray looks up at once
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise OptionError("address", address, f"{_NO_CLUSTER} ({error})") from error


def _make_service(options: Options, file: Path, resume: bool) -> Service:
    torch.set_num_threads(options.threads)
    service = service_of(Training(options), file, lambda record: None)
    if resume:
        service.resume()
    return service


def _make_worker(options: Options) -> tuple[nn.Module, Loss]:
    torch.set_num_threads(options.threads)
    return build_worker(options.build_task(), options.seed)
