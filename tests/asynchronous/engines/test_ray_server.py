"""The Ray engine's server without Ray: what it answers to messages, the refused ones above all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from asynchronous.counting import Tally, server_of
from torch import Tensor, nn

import yfkernels
from yfkernels.asynchronous import (
    Batches,
    DelayAdaptive,
    FlatBuffers,
    Next,
    Request,
    Server,
    Service,
)
from yfkernels.asynchronous.engines import ray
from yfkernels.asynchronous.engines.ray.arrays import as_bytes, as_tensor
from yfkernels.asynchronous.engines.ray.server import Serving
from yfkernels.asynchronous.engines.wire import Ends, Fault, Header, Kind, Layout, pack, unpack

pytest.importorskip("numpy", reason="the Ray engine's arrays are numpy's")
SAMPLES = 6


class Worker:
    """A worker's end, whose messages go to a server in this process."""

    def __init__(self, serving: Serving, token: int, number: int = 1, model: Any = None) -> None:
        self.model = Tally(SAMPLES, double=True) if model is None else model
        self.buffers = FlatBuffers(self.model)
        self.serving = serving
        self.ends = Ends(token, number, Layout.of(self.buffers))

    def send(self, raw: bytes, flats: Sequence[Any] = ()) -> tuple[Header, list[Any]]:
        answer = self.serving.exchange(self.ends.worker, raw, *flats)
        return unpack(answer[0]), answer[1:]

    def ask(self) -> tuple[Header, list[Any]]:
        return self.send(pack(self.ends.request(Request("ada"), has_gradient=False)))

    def push(
        self, reply: Header, flats: Sequence[Any] | None = None, **fields: Any
    ) -> tuple[Header, list[Any]]:
        self.buffers.gradients[0][0] = -1.0
        request = Request("ada", self.ends.version(reply), reply.lease, 0.5)
        header = self.ends.request(request, has_gradient=True)._replace(**fields)
        given = [as_bytes(flat) for flat in self.buffers.gradients] if flats is None else flats
        return self.send(pack(header), given)


@pytest.fixture
def service() -> Service:
    return Service(server_of(Tally(SAMPLES, double=True), epochs=1))


@pytest.fixture
def serving(service: Service) -> Serving:
    serving = Serving()
    assert serving.begin(lambda: service) == service.server.version.run
    return serving


@pytest.fixture
def worker(serving: Serving, service: Service) -> Worker:
    return Worker(serving, service.server.version.run)


def test_a_push_is_applied_and_the_next_batch_comes(worker: Worker, service: Service) -> None:
    reply, (flats,) = worker.ask()
    assert (reply.kind, reply.next, reply.lease) == (Kind.REPLY, Next.WORK, 0)
    assert reply.indices is not None
    assert len(reply.indices) == 2
    own = service.server.buffers.parameters
    assert [flat.ctypes.data for flat in flats] == [flat.data_ptr() for flat in own]  # no copy
    assert [as_tensor(a, f.dtype).shape for a, f in zip(flats, worker.buffers.parameters)] == [
        flat.shape for flat in worker.buffers.parameters
    ]
    reply, (flats,) = worker.push(reply)
    assert reply.result is not None
    assert reply.result.applied
    assert float(as_tensor(flats[0], torch.float32)[0]) == 1.0
    assert service.workers["worker 1"].applied == 1


@pytest.mark.parametrize("rule", [None, DelayAdaptive()], ids=["alone", "with a rule"])
def test_the_gradient_stays_where_it_arrived_and_is_not_written_to(rule: Any) -> None:
    """A rule that weighs it takes a copy. Momentum would show a gradient that is not the push's."""
    model = Tally(SAMPLES)
    server = Server(model, yfkernels.QHM.from_sgd(model.parameters(), lr=1.0), staleness_rule=rule)
    serving = Serving()
    worker = Worker(serving, serving.begin(lambda: server), model=Tally(SAMPLES))
    reply, _ = worker.ask()
    for push in range(3):
        worker.push(reply)
        (here,), (theirs,) = server.buffers.parameters, worker.buffers.gradients
        in_place = rule is None or push == 0
        assert (model.counts.grad.data_ptr() == theirs.data_ptr()) == in_place
        assert float(theirs[0]) == -1.0
    assert float(here[0]) == pytest.approx(3.0 if rule is None else 1.0 + 1 / 2 + 1 / 3)


def test_the_end(worker: Worker, serving: Serving) -> None:
    serving.stop()
    reply, (flats,) = worker.ask()
    assert (reply.next, flats, reply.indices) == (Next.STOP, [], None)
    assert serving.finished()


Spoil = Callable[[Worker, Header], tuple[Header, list[Any]]]
SPOILED: dict[str, tuple[Spoil, Fault]] = {
    "another run": (lambda w, r: w.push(r, token=r.token ^ 1), Fault.TOKEN),
    "another worker": (lambda w, r: w.push(r, worker=2), Fault.WORKER),
    "a reply": (lambda w, r: w.push(r, kind=Kind.REPLY), Fault.KIND),
    "no header": (lambda w, r: w.send(b"\x80\x05pickled"), Fault.SHORT),
    "noise": (lambda w, r: w.send(bytes(4096)), Fault.MAGIC),
    "no gradient": (lambda w, r: w.push(r, []), Fault.SHORT),
    "half a gradient": (
        lambda w, r: w.push(r, [as_bytes(g)[: g.numel()] for g in w.buffers.gradients]),
        Fault.SHORT,
    ),
    "too much": (lambda w, r: w.push(r, [as_bytes(w.buffers.gradients[0])] * 3), Fault.SHORT),
    "no arrays": (lambda w, r: w.push(r, ["an object", 3]), Fault.SHORT),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_does_not_fit_is_refused(name: str, worker: Worker, service: Service) -> None:
    """Nothing is applied, the batch is lent to others, and the sender is served no longer."""
    spoil, fault = SPOILED[name]
    reply, _ = worker.ask()
    before = [flat.clone() for flat in service.server.buffers.parameters]
    refusal, rest = spoil(worker, reply)
    assert (refusal.kind, refusal.fault, rest) == (Kind.REFUSE, fault, [])
    assert service.server.version.number == 0
    assert all(map(torch.equal, before, service.server.buffers.parameters))
    assert service.workers["worker 1"].losses == {fault.value: 1}
    again, _ = worker.push(reply)
    assert again.fault is Fault.LOST
    other = Worker(worker.serving, service.server.version.run, number=2)
    assert other.ask()[0].lease == 1  # that of worker 1, under a new number
    assert service.server.batches is not None
    assert not service.server.batches.is_open(0)


def test_another_model_is_told(worker: Worker, serving: Serving, service: Service) -> None:
    other = Worker(serving, service.server.version.run, model=Tally(SAMPLES, padding=4))
    refusal, _ = other.ask()
    assert refusal.fault is Fault.MODEL
    assert "the server has 16 of torch.float32 and 8 of torch.float64" in other.ends.why(refusal)


def test_what_a_lost_worker_has_sent_before_is_not_applied(
    worker: Worker, serving: Serving, service: Service
) -> None:
    """Or its next batch would be lent to a process that is no more."""
    reply, _ = worker.ask()
    serving.lose(1, "died")
    serving.lose(1, "was noticed again")
    refusal, _ = worker.push(reply)
    assert refusal.fault is Fault.LOST
    assert service.server.version.number == 0
    assert service.workers["worker 1"].losses == {"died": 1}


class Breaking(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise ZeroDivisionError("the step is broken")


def test_an_error_of_the_optimizer_ends_training() -> None:
    model = Tally(SAMPLES)
    server = Server(model, Breaking(model.parameters(), lr=1.0), batches=Batches(SAMPLES, 2))
    serving = Serving()
    worker = Worker(serving, serving.begin(lambda: server), model=Tally(SAMPLES))
    reply, _ = worker.ask()
    with pytest.raises(ZeroDivisionError):
        worker.push(reply)
    with pytest.raises(ZeroDivisionError):
        serving.finished()
    assert worker.ask()[0].next is Next.STOP


def test_result_has_all_and_writes_the_checkpoint(tmp_path: Any, worker: Worker) -> None:
    service = Service(server_of(Tally(SAMPLES, double=True)), checkpoint=tmp_path / "run.pt")
    serving = Serving()
    worker = Worker(serving, serving.begin(lambda: service))
    worker.push(worker.ask()[0])
    result = serving.result()
    assert (tmp_path / "run.pt").is_file()
    assert result["pushes"] == 1
    assert float(as_tensor(result["parameters"][0], torch.float32)[0]) == 1.0
    assert result["dtypes"] == (torch.float32, torch.float64)
    assert result["log"]["staleness"] == {0: 1}
    assert result["workers"]["worker 1"]["applied"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_bytes_share_the_memory_of_tensors(dtype: torch.dtype) -> None:
    flat = torch.arange(32).to(dtype)
    array = as_bytes(flat)
    flat[3] = 77
    array.flags.writeable = False  # as what Ray hands out
    seen = as_tensor(array, dtype)
    assert torch.equal(seen, flat)
    assert seen.data_ptr() == flat.data_ptr()


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'yfkernels\[ray\]'"):
        ray.train(unused, unused, workers=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "Invalid workers value: 0; it must be an integer >= 1"),
        ({"workers": 1, "grace": 0.0}, r"Invalid grace value: 0\.0"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ray.start(unused, unused, **options)


def unused() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    raise AssertionError
