"""One exchange with a worker: its push, its batch, the next one, and what is kept of it."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from asynchronous.counting import Local, Tally, gradient_of, server_of
from torch import Tensor, nn

from yfkernels.asynchronous import (
    Next,
    PushResult,
    Record,
    Refusal,
    Reply,
    Request,
    Server,
    Service,
    WorkerCounts,
    work,
)


class Bench:
    """A service, and workers that are played by hand."""

    def __init__(self, samples: int = 6, epochs: int = 1, **options: Any) -> None:
        self.model = Tally(samples)
        ours = {k: options.pop(k) for k in ("max_staleness", "patience") if k in options}
        self.server = server_of(self.model, epochs=epochs, **ours)
        self.records: list[Record] = []
        self.service = Service(self.server, on_push=self.records.append, **options)

    def ask(self, worker: str) -> Reply:
        return self._given_back(self.service.answer(Request(worker)))

    def push(self, worker: str, work: Reply, factor: float = 1.0) -> Reply:
        gradient = [factor * flat for flat in gradient_of(self.model, work.indices)]
        request = Request(worker, work.version, work.lease, 0.5)
        return self._given_back(self.service.answer(request, gradient))

    def counts(self) -> list[float]:
        counts: list[float] = self.model.counts.tolist()
        return counts

    @staticmethod
    def _given_back(answer: Any) -> Reply:
        reply: Reply = answer.reply
        assert (answer.snapshot is not None) == (reply.next is Next.WORK)
        if answer.snapshot is not None:
            with answer.snapshot:
                pass
        return reply


def test_push_and_pull_are_one_exchange() -> None:
    bench = Bench()
    work = bench.ask("ada")
    reply = bench.push("ada", work)
    assert (reply.next, reply.result) == (Next.WORK, PushResult(True, 0))
    assert reply.version.number == work.version.number + 1
    assert reply.indices is not None
    assert work.indices is not None
    assert not set(reply.indices) & set(work.indices)
    assert sum(bench.counts()) == 2
    assert bench.records == [Record(1, 0.5, 0, True, None, 0, "ada")]
    assert bench.service.workers == {"ada": WorkerCounts(applied=1)}


def test_the_last_batches_are_waited_for_and_then_training_ends() -> None:
    bench = Bench()
    works = [bench.ask(worker) for worker in "abc"]
    assert bench.ask("d").next is Next.WAIT
    assert bench.push("a", works[0]).next is Next.WAIT
    bench.service.lost("b")
    again = bench.ask("a")
    assert again.indices == works[1].indices
    assert bench.push("b", works[1]).result == PushResult(False, 1, Refusal.LEASE)  # not dead
    assert bench.push("c", works[2]).next is Next.WAIT
    assert not bench.service.finished
    assert bench.push("a", again).next is Next.STOP
    assert bench.service.finished
    assert bench.ask("d").next is Next.STOP
    assert bench.counts() == [1.0] * 6
    lost = WorkerCounts(refusals=Counter([Refusal.LEASE]), losses=Counter(["died"]))
    assert bench.service.workers["b"] == lost


def test_a_refused_batch_is_lent_again_but_for_one_not_finite() -> None:
    bench = Bench(samples=4, max_staleness=0)
    first, second = bench.ask("a"), bench.ask("b")
    bench.push("a", first, math.nan)
    third = bench.ask("c")
    assert third.next is Next.WAIT  # neither lent again
    assert bench.push("b", second).result == PushResult(True, 0)
    assert bench.service.finished
    assert sum(bench.counts()) == 2
    assert bench.records[0].refusal is Refusal.NONFINITE
    assert bench.records[0].epoch == 0

    bench = Bench(samples=4, max_staleness=0)
    first, second = bench.ask("a"), bench.ask("b")
    bench.push("a", first)
    reply = bench.push("b", second)
    assert reply.result == PushResult(False, 1, Refusal.STALE)
    assert reply.indices == second.indices
    assert bench.push("b", reply).next is Next.STOP
    assert bench.counts() == [1.0] * 4


@pytest.mark.parametrize("how", ["pushes", "stop"])
def test_after_the_end_gradients_are_left_aside(how: str) -> None:
    bench = Bench(epochs=100, pushes=2 if how == "pushes" else None)
    works = [bench.ask(worker) for worker in "abc"]
    for worker, each in zip("ab", works):
        assert bench.push(worker, each).result == PushResult(True, "ab".index(worker))
    if how == "stop":
        bench.service.stop()
    reply = bench.push("c", works[2])
    assert (reply.next, reply.result) == (Next.STOP, None)
    assert bench.service.workers["c"] == WorkerCounts(unused=1)
    assert sum(bench.counts()) == 4
    assert len(bench.records) == 2


def test_without_batches() -> None:
    model = nn.Linear(2, 1)
    service = Service(Server(model, torch.optim.SGD(model.parameters(), lr=0.1)), pushes=3)
    reply, _ = service.answer(Request("a"))
    for step in range(3):
        assert (reply.next, reply.lease, reply.indices) == (Next.WORK, None, None)
        gradient = [torch.ones_like(flat) for flat in service.server.gradients]
        reply, _ = service.answer(Request("a", reply.version), gradient)
        assert reply.version.number == step + 1
    assert reply.next is Next.STOP


def test_parameters_are_those_of_one_version_while_others_push() -> None:
    """A reader keeps what it was given; readers of one version share it; copies are used again."""
    bench = Bench(epochs=100)
    service, model = bench.service, bench.model
    ada, ada_snapshot = service.answer(Request("a"))
    _, bob_snapshot = service.answer(Request("b"))
    assert ada_snapshot is not None
    assert ada_snapshot is bob_snapshot
    with ada_snapshot as parameters:
        bench.push("a", ada)
        assert model.counts.sum() == 2
        assert not parameters[0].any()
        assert parameters[0].data_ptr() != model.counts.data_ptr()
    assert not ada_snapshot.parameters[0].any()  # bob still reads it
    addresses = {ada_snapshot.parameters[0].data_ptr()}
    with ada_snapshot:  # bob's
        pass
    for _ in range(5):
        reply, snapshot = service.answer(Request("a"))
        assert snapshot is not None
        with snapshot as parameters:
            assert parameters[0].equal(service.server.buffers.parameters[0])
            addresses.add(parameters[0].data_ptr())
        bench.push("a", reply)
    assert len(addresses) == 2


def test_many_threads() -> None:
    """Four workers at once: every sample once an epoch, no parameters torn."""
    model = Tally(64, padding=1000)
    torn: list[Tensor] = []

    class Watched(Tally):
        def loss(self, indices: Sequence[int] | None) -> Tensor:
            if len(self.padding.detach().unique()) > 1:
                torn.append(self.padding.detach().clone())
            return super().loss(indices) - self.padding.sum()

    service = Service(server_of(model, epochs=5))
    applied: dict[str, int] = {}

    def run(name: str) -> None:
        own = Watched(64, padding=1000)
        applied[name] = work(own, own.loss, Local(service), worker=name)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert service.finished
    assert model.counts.tolist() == [5.0] * 64
    assert not torn
    assert sum(applied.values()) == service.server.version.number == 160
    assert {name: counts.applied for name, counts in service.workers.items()} == applied


def test_the_checkpoint_goes_on_where_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "server.pt"
    options = {"checkpoint": path, "checkpoint_every": 2}
    bench = Bench(samples=10, epochs=2, **options)
    work_a, work_b = bench.ask("a"), bench.ask("b")
    bench.push("b", work_b, math.nan)
    bench.service.lost("b", "slow")
    for _ in range(3):  # the third is in no checkpoint
        assert path.exists() == (bench.server.version.number == 2)
        work_a = bench.push("a", work_a)
    resumed = Bench(samples=10, epochs=2, **options)
    resumed.service.resume()
    assert resumed.server.version.number == 2
    assert resumed.service.workers == {
        "a": WorkerCounts(applied=2),
        "b": WorkerCounts(refusals=Counter([Refusal.NONFINITE]), losses=Counter(["slow"])),
    }
    result = resumed.push("a", work_a).result
    assert result is not None
    assert result.refusal is Refusal.OTHER_RUN
    resumed.service.lost("a")
    own = Tally(10)
    work(own, own.loss, Local(resumed.service), worker="c")
    given_up = work_b.indices
    assert given_up is not None
    expected = [2.0 - (index in given_up) for index in range(10)]
    assert resumed.counts() == expected
    resumed.service.save()
    assert torch.load(path, weights_only=True)["server"]["version"] == 9


def test_a_checkpoint_holds_what_else_it_was_given(tmp_path: Path) -> None:
    """A scheduler, say, that every push steps."""
    path = tmp_path / "run.pt"
    benches = [Bench(), Bench()]
    schedulers = []
    for bench in benches:
        scheduler = torch.optim.lr_scheduler.StepLR(bench.server.optimizer, 1)
        schedulers.append(scheduler)
        bench.service = Service(
            bench.server,
            on_push=lambda record, scheduler=scheduler: scheduler.step(),
            checkpoint=path,
            saved={"scheduler": scheduler},
        )
    first, second = benches
    first.push("a", first.ask("a"))
    first.service.save()
    second.service.resume()
    assert schedulers[1].last_epoch == schedulers[0].last_epoch == 1
    other = Bench()
    other.service = Service(other.server, checkpoint=path, saved={"sampler": scheduler})
    before = other.server.version
    with pytest.raises(ValueError, match=r"Invalid saved value: \['sampler'\]; it must be what"):
        other.service.resume()
    assert other.server.version == before


def test_the_latest_push_is_at_hand() -> None:
    bench = Bench()
    assert bench.service.latest is None
    bench.push("a", bench.ask("a"))
    assert bench.service.latest == bench.records[-1]
    bench.push("a", bench.ask("a"), factor=math.nan)
    assert bench.service.latest == bench.records[-1]
    assert bench.records[-1].refusal is Refusal.NONFINITE


def test_an_error_of_a_callback_goes_through_and_ends_training() -> None:
    def fail(record: Record) -> None:
        raise OSError("disk full")

    bench = Bench()
    bench.service = Service(bench.server, on_push=fail)
    first = bench.ask("a")
    with pytest.raises(OSError, match="disk full"):
        bench.push("a", first)
    assert bench.ask("b").next is Next.STOP


def test_bad_input_is_named(tmp_path: Path) -> None:
    bench = Bench()
    for options, message in [
        ({"pushes": 0}, "Invalid pushes value: 0"),
        ({"checkpoint_every": 5}, "Invalid checkpoint_every value: 5; .* along with a checkpoint"),
        ({"checkpoint": tmp_path / "a", "checkpoint_every": 0}, "Invalid checkpoint_every value"),
    ]:
        with pytest.raises(ValueError, match=message):
            Service(bench.server, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Invalid version value: None; .* that of the gradient"):
        bench.service.answer(Request("a"), bench.server.gradients)
    for method in (bench.service.save, bench.service.resume):
        with pytest.raises(ValueError, match="Invalid checkpoint value: None"):
            method()
    missing = Service(bench.server, checkpoint=tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        missing.resume()
    (tmp_path / "none").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"cannot read .*none: remove it, or do not resume"):
        missing.resume()
