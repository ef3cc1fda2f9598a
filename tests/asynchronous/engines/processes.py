"""Real processes of one run: a server that counts samples exactly, and workers good and bad."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from asynchronous.counting import Tally, server_of
from torch import Tensor

from yfkernels.asynchronous import (
    FlatBuffers,
    Record,
    Reply,
    Request,
    Service,
    Version,
    WorkerCounts,
)
from yfkernels.asynchronous.engines import gloo
from yfkernels.asynchronous.engines.gloo.client import PairLink, connect
from yfkernels.asynchronous.engines.gloo.rendezvous import meet
from yfkernels.asynchronous.engines.wire import Kind, Layout, pack

SECONDS = 150.0  # that a run has before it counts as stuck; most take 3 on idle cores
MODULES = ["torch", "yfkernels.asynchronous.engines.gloo", "asynchronous.counting"]


@dataclass
class Training:
    """What is trained: `Tally`, once over its samples in every epoch."""

    samples: int = 40
    epochs: int = 2
    padding: int = 300_000  # numbers that every push moves by 1, so that torn parameters show
    double: bool = False
    server: dict[str, Any] = field(default_factory=dict)
    service: dict[str, Any] = field(default_factory=dict)
    serve: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Tally:
        return Tally(self.samples, padding=self.padding, double=self.double)


Role = Callable[[Training], None]


# ---- the server's roles


def serves(training: Training, on_push: Callable[[Record], None] | None = None) -> None:
    """Trains, and leaves its counts in the folder."""
    options = dict(training.service)
    resume = options.pop("resume", False)
    model = training.model()
    # With patience without end, a batch of the dead comes back only if their death is noticed.
    server = server_of(model, **{"epochs": training.epochs, "patience": 1e6, **training.server})
    service = Service(server, on_push=on_push, **options)
    if resume:
        service.resume()
    error = ""
    try:
        gloo.serve(service, **training.serve)
    except BaseException as stop:
        error = f"{type(stop).__name__}: {stop}"
        raise
    finally:
        workers = {name: counts.state_dict() for name, counts in service.workers.items()}
        facts = {
            "counts": model.counts.detach(),
            "again": model.again.detach() if training.double else None,
            "version": server.version.number,
            "workers": workers,
            "error": error,
        }
        torch.save(facts, Path("server.pt"))


def serves_and_is_killed_at_23(training: Training) -> None:
    serves(training, lambda record: _kill() if record.step == 23 else None)


def serves_and_is_interrupted_at_10(training: Training) -> None:
    """As Ctrl-C does it: the signal is for the main thread."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run with `&`
    serves(
        training,
        lambda record: os.kill(os.getpid(), signal.SIGINT) if record.step == 10 else None,
    )


def serves_and_fails_at_10(training: Training) -> None:
    def fail(record: Record) -> None:
        if record.step == 10:
            raise OSError("disk full")

    serves(training, fail)


# ---- workers


def works(training: Training, slow: float = 0.003, at: dict[int, Any] | None = None) -> None:
    """A good worker, but for what it does in its batches of some numbers.

    It begins when the others have a batch as well, or have ended.
    """
    model = training.model()
    batches = 0

    def loss(indices: Sequence[int] | None) -> Tensor:
        nonlocal batches
        batches += 1
        if batches == 1:
            _mark("joined")
            _await_others()
        time.sleep(slow)
        padding = model.padding.detach()
        assert float(padding.min()) == float(padding.max()), "torn parameters"
        value = model.loss(indices) - model.padding.sum()
        action = (at or {}).get(batches)
        return value if action is None else action(value)

    gloo.work(model, loss)


def sleeps_half_a_second(training: Training) -> None:
    works(training, at={1: lambda loss: time.sleep(0.5) or loss})


def sleeps_ten_seconds(training: Training) -> None:
    works(training, at={1: lambda loss: time.sleep(10.0) or loss})


def pushes_nan(training: Training) -> None:
    works(training, at={1: lambda loss: loss * float("nan")})


def pushes_infinity(training: Training) -> None:
    works(training, at={1: lambda loss: loss * float("inf")})


def is_killed_between_two_tensors(training: Training) -> None:
    link, _, flats = _with_work(training)
    pair = link.pair
    pair._send(flats[0].view(torch.uint8), 1)
    pair.settle()
    _kill()


def is_killed_in_a_tensor(training: Training) -> None:
    """Of 40 MB, more than sockets hold, so that part of it cannot have been sent."""
    link, _, flats = _with_work(training)
    link.pair._send(flats[0].view(torch.uint8), 1)
    _kill()


def is_killed_while_it_pulls(training: Training) -> None:
    link = _link(training)
    link.pair.expect(FlatBuffers(training.model()).parameters)
    link.pair.send(pack(link.ends.request(Request(""), False)))
    _kill()


def has_more_samples(training: Training) -> None:
    training.samples += 1000
    works(training)


def has_other_shapes(training: Training) -> None:
    """As many numbers in all, and of the same dtype."""
    model = torch.nn.ParameterList(
        [torch.zeros(training.samples), torch.zeros(2, training.padding // 2)]
    )
    gloo.work(model, lambda batch: model[1].sum())  # type: ignore[arg-type]


def has_another_token(training: Training) -> None:
    link = _link(training)
    link.ends = link.ends._replace(token=link.ends.token ^ 1)
    _ask(link, training)


def names_another_worker(training: Training) -> None:
    link = _link(training)
    link.ends = link.ends._replace(worker=1)
    _ask(link, training)


def sends_a_broken_header(training: Training) -> None:
    link = _link(training)
    raw = bytearray(pack(link.ends.request(Request(""), False)))
    raw[20] ^= 1
    _hear_why(link, bytes(raw))


def sends_noise(training: Training) -> None:
    link = _link(training)
    _hear_why(link, bytes(range(256)) * 20)


def pushes_before_it_asks(training: Training) -> None:
    link = _link(training)
    flats = FlatBuffers(training.model()).gradients
    request = Request("", Version(link.ends.token, 0), None, 0.0)
    link.exchange(request, flats, flats)


def announces_other_sizes(training: Training) -> None:
    """In its third message: its gradient is not touched then."""
    link, reply, flats = _with_work(training)
    sizes = tuple(size + 64 for size in link.ends.layout.sizes)
    link.ends = link.ends._replace(layout=link.ends.layout._replace(sizes=sizes))
    link.exchange(Request("", reply.version, reply.lease, 0.0), flats, flats)


def sends_less_than_announced(training: Training) -> None:
    link, reply, flats = _with_work(training)
    short = [flat.fill_(1.0)[:-64] for flat in flats]
    link.exchange(Request("", reply.version, reply.lease, 0.0), short, flats)


def works_once_the_other_does(training: Training) -> None:
    """So that it is not itself silent while it waits for the other."""
    while not Path("joined-2").exists():
        time.sleep(0.01)
    works(training)


def is_silent(training: Training) -> None:
    """Until the first worker has ended."""

    def wait(loss: Tensor) -> Tensor:
        while not Path("ended-1").exists():
            time.sleep(0.01)
        return loss

    works(training, at={1: wait})


def comes_twice(training: Training) -> None:
    while not Path("joined-1").exists():
        time.sleep(0.01)
    os.environ["RANK"] = "1"
    connect(meet(), Layout.of(FlatBuffers(training.model())), 20.0)


def _link(training: Training) -> PairLink:
    return connect(meet(), Layout.of(FlatBuffers(training.model())), 20.0)


def _with_work(training: Training) -> tuple[PairLink, Reply, tuple[Tensor, ...]]:
    """After two good pushes, with the third batch and a gradient for it."""
    link, model = _link(training), training.model()
    buffers = FlatBuffers(model)
    reply = link.exchange(Request(""), None, buffers.parameters)
    for _ in range(2):
        buffers.zero_grad()
        (model.loss(reply.indices) - model.padding.sum()).backward()
        request = Request("", reply.version, reply.lease, 0.0)
        reply = link.exchange(request, buffers.gradients, buffers.parameters)
    return link, reply, buffers.gradients


def _ask(link: PairLink, training: Training) -> None:
    link.exchange(Request(""), None, FlatBuffers(training.model()).parameters)


def _hear_why(link: PairLink, sent: bytes) -> None:
    link.pair.send(sent)
    why = link.ends.read(link.pair.header(), [Kind.REFUSE]).fault
    assert why is not None
    raise ConnectionError(why.value)


def _kill() -> None:
    _mark("ended")
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60.0)


def _mark(what: str) -> None:
    Path(f"{what}-{os.environ['PROCESS']}").touch()


def _await_others() -> None:
    ranks = range(1, int(os.environ["WORLD_SIZE"]))
    while not all(any(Path().glob(f"*ed-{rank}")) for rank in ranks):
        time.sleep(0.01)


# ---- the test's end


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        exits: the processes' exit codes, the server's first; None for one that was ended here.
        errors: their last words, empty for those that ended well.
        counts: how often each sample was applied, or refused for good.
        again: the same from the second tensor.
        version: pushes that were applied.
        workers: what the server counted of each.
        seconds: from the start to the end.
    """

    exits: list[int | None]
    errors: list[str]
    counts: list[float]
    again: list[float]
    version: int
    workers: dict[str, WorkerCounts]
    seconds: float


def run(folder: Path, training: Training, server: Role, *workers: Role) -> Outcome:
    """Starts the processes of one run and waits for them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    port = _free_port()
    for left in folder.glob("*-*"):  # by the run before
        left.unlink()
    roles = [server, *workers]
    begun = time.monotonic()
    processes = [
        context.Process(target=_play, args=(role, training, folder, rank, len(roles), port))
        for rank, role in enumerate(roles)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, begun + SECONDS - time.monotonic()))
    finally:
        exits = [process.exitcode for process in processes]
        _end(processes)
    seconds = time.monotonic() - begun
    words = [folder / f"error-{rank}.txt" for rank in range(len(roles))]
    errors = [file.read_text() if file.exists() else "" for file in words]
    facts: dict[str, Any] = {"counts": [], "again": None, "version": -1, "workers": {}}
    if (folder / "server.pt").exists():
        facts = torch.load(folder / "server.pt", weights_only=True)
    again = facts["again"]
    return Outcome(
        exits,
        errors,
        list(map(float, facts["counts"])),
        [] if again is None else list(map(float, again)),
        facts["version"],
        {name: WorkerCounts.from_state_dict(each) for name, each in facts["workers"].items()},
        seconds,
    )


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        if process.pid is not None:
            process.kill()
            process.join()


def _play(role: Role, training: Training, folder: Path, rank: int, world: int, port: int) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    variables = {"RANK": rank, "PROCESS": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in variables.items()})
    os.environ["MASTER_PORT"] = str(port)
    if rank > 0:
        _await_the_server(port)
    try:
        role(training)
    except BaseException as error:
        Path(f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        raise SystemExit(1) from error
    finally:
        _mark("ended")


def _await_the_server(port: int) -> None:
    """Until it listens: torch tries again only after seconds."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
