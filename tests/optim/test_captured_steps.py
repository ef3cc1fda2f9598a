"""Captured steps: a replay finds its addresses, numbers and memory, whatever came between.

Without a device: what the compiled module is asked to do is recorded instead of a CUDA graph, and
done again with the same arguments, as a replay does. tests/optim/test_*_cuda.py have real graphs.
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, normal, why_unusable
from support.kinds import KINDS, Kind
from torch import Tensor, nn

from yfkernels.ops.backends import backend_of
from yfkernels.ops.native import cpu as native_cpu

pytestmark = pytest.mark.skipif(
    why_unusable(Site("native", "cpu")) is not None, reason="records the compiled module's calls"
)
SHAPES = ((5, 3), (7,), (1025,))
CAPTURABLE = [kind for kind in KINDS if kind.core or not kind.tunes]


class Recorder:
    """Stands in for the compiled module; while it records, calls are noted and not made."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.calls: list[Callable[[], Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)
        if not name.startswith("cpu_"):
            return function

        def call(*arguments: Any) -> Any:
            if self.calls is None:
                return function(*arguments)
            given = copy.deepcopy([a for a in arguments if isinstance(a, list)])
            frozen = [given.pop(0) if isinstance(a, list) else a for a in arguments]
            self.calls.append(lambda: function(*frozen))
            return None

        return call


class Graph:
    """Captures steps and replays them."""

    def __init__(self, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
        self._recorder = recorder
        self._monkeypatch = monkeypatch
        self._calls: list[Callable[[], Any]] = []

    @contextmanager
    def capture(self) -> Iterator[None]:
        self._recorder.calls = self._calls
        with self._monkeypatch.context() as patched:
            patched.setattr(torch.cuda, "is_available", lambda: True)
            patched.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            try:
                yield
            finally:
                self._recorder.calls = None

    def replay(self) -> None:
        for call in self._calls:
            call()


Make = Callable[[], Graph]


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Make:
    native = backend_of("native", "cpu")
    recorder = Recorder(native._c)  # type: ignore[attr-defined]
    monkeypatch.setattr(native, "_c", recorder)
    # addresses go where kernels read them as they do on a device: by calls
    monkeypatch.setattr(native_cpu, "_on_host", lambda table: False)
    return lambda: Graph(recorder, monkeypatch)


class Run:
    """An optimizer that may be captured, and one like it that takes the same steps eagerly."""

    def __init__(self, kind: Kind, rng: np.random.Generator, **options: Any) -> None:
        self.rng = rng
        self.params = [nn.Parameter(normal(rng, torch.empty(s)).float()) for s in SHAPES]
        self.expected_params = [nn.Parameter(p.detach().clone()) for p in self.params]
        options |= {"backend": "native", "capturable": True}
        self.optimizer = kind.build(self.params, **options)
        self.expected = kind.build(self.expected_params, **options)

    def new_gradients(self) -> list[Tensor]:
        """In memory of their own, as after zero_grad()."""
        grads = [torch.empty_like(p) for p in self.params]
        for p, grad in zip(self.params, grads):
            p.grad = grad
        return grads

    def fill(self, grads: list[Tensor]) -> None:
        for grad, q in zip(grads, self.expected_params):
            q.grad = normal(self.rng, q).float()
            grad.copy_(q.grad)

    def step(self, replayed: Graph | None = None, into: list[Tensor] | None = None) -> None:
        """One of both: eager with new gradients, or a replay with those it was captured for."""
        if replayed is None:
            self.fill(self.new_gradients())
            self.optimizer.step()
        else:
            assert into is not None
            self.fill(into)
            replayed.replay()
        self.expected.step()

    def assert_equal(self) -> None:
        assert_same_bits(
            [p.detach() for p in self.params], [q.detach() for q in self.expected_params]
        )
        assert_same_bits(self.optimizer.state_dict(), self.expected.state_dict())


@pytest.fixture(params=CAPTURABLE, ids=str)
def run(request: pytest.FixtureRequest, graph: Make, rng: np.random.Generator) -> Run:
    made = Run(request.param, rng)
    for _ in range(2):
        made.step()
    return made


@pytest.mark.parametrize("settled", [False, True], ids=["moved", "unchanged"])
def test_replay_eager_replay(run: Run, graph: Make, *, settled: bool) -> None:
    """An odd last batch moves the gradients; the replays go on with theirs."""
    captured, its = graph(), run.new_gradients()
    if settled:  # the device has the addresses and the settings already
        run.fill(its)
        run.optimizer.step()
        run.expected.step()
    with captured.capture():
        run.optimizer.step()
    run.step()  # before any replay, when the device has not learnt what was captured
    run.assert_equal()
    for _ in range(2):
        run.step(captured, its)
        run.assert_equal()
        run.step()
        run.assert_equal()


def test_a_capture_that_fails(run: Run, graph: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has recorded never runs, so the next step writes it."""
    captured = graph()
    run.new_gradients()
    for group in run.optimizer.param_groups:
        group["lr"] = 0.5 * group["lr"]
    with captured.capture(), monkeypatch.context() as patched:
        patched.setattr(run.optimizer._tuner, "decide", _launch_nothing)
        with pytest.raises(LookupError):
            run.optimizer.step()
    for group in run.expected.param_groups:
        group["lr"] = 0.5 * group["lr"]
    run.step()
    run.assert_equal()


def _launch_nothing(*scaler: Any) -> None:
    raise LookupError("a kernel that was not launched before")


def test_a_capture_without_gradients(run: Run, graph: Make) -> None:
    """Of an idle optimizer; its replays write that there are none where the next step has some."""
    captured, its = graph(), run.new_gradients()
    run.fill(its)
    run.optimizer.step()
    run.expected.step()
    for p in run.params:
        p.grad = None
    with captured.capture():
        run.optimizer.step()
    for _ in range(2):
        for p, grad in zip(run.params, its):
            p.grad = grad
        run.fill(its)
        run.optimizer.step()
        run.expected.step()
        run.assert_equal()
        captured.replay()
        run.assert_equal()


def test_two_graphs(run: Run, graph: Make) -> None:
    """As for two shapes of a batch, with settings of their own."""
    captured = []
    for _ in range(2):
        its = run.new_gradients()
        captured.append((graph(), its))
        with captured[-1][0].capture():
            run.optimizer.step()
    for first in (0, 1, 1, 0, 0, 1):
        run.step(*captured[first])
        run.assert_equal()


def test_settings_are_those_of_the_capture(run: Run, graph: Make) -> None:
    captured, its = graph(), run.new_gradients()
    with captured.capture():
        run.optimizer.step()
    lr = run.optimizer.param_groups[0]["lr"]
    for factor in (0.5, 1.0):
        for optimizer in (run.optimizer, run.expected):
            optimizer.param_groups[0]["lr"] = factor * lr
        run.step()
        for optimizer in (run.optimizer, run.expected):
            optimizer.param_groups[0]["lr"] = lr
        run.step(captured, its)
        run.assert_equal()


def test_a_scaler_between_replays(run: Run, graph: Make) -> None:
    """A step that GradScaler skips, and one that it scales, leave nothing behind in a graph."""
    captured, its = graph(), run.new_gradients()
    with captured.capture():
        run.optimizer.step()
    for scale, skips in ((1.0, 1.0), (4.0, 0.0)):
        run.fill(run.new_gradients())
        for optimizer in (run.optimizer, run.expected):
            optimizer.grad_scale = torch.tensor(scale)
            optimizer.found_inf = torch.tensor(skips)
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        run.step(captured, its)
        run.assert_equal()


def test_a_load_goes_into_what_was_captured(run: Run, graph: Make) -> None:
    """And the numbers of the checkpoint stay the checkpoint's."""
    for optimizer in (run.optimizer, run.expected):
        optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    run.step()
    captured, its = graph(), run.new_gradients()
    with captured.capture():
        run.optimizer.step()
    saved = copy.deepcopy(run.expected.state_dict())
    kept = copy.deepcopy(saved)
    run.step(captured, its)
    before = {p: dict(state) for p, state in run.optimizer.state.items()}
    for optimizer in (run.optimizer, run.expected):
        optimizer.load_state_dict(saved)
    for p, state in run.optimizer.state.items():
        assert all(state[name] is value for name, value in before[p].items())
    for _ in range(2):
        run.step(captured, its)
        run.assert_equal()
        run.step()
        run.assert_equal()
    assert_same_bits(saved, kept)


@pytest.mark.parametrize("lr", [0.5, [0.5]], ids=["scalar", "vector"])
def test_a_learning_rate_of_any_shape_is_loaded(run: Run, graph: Make, lr: Any) -> None:
    for optimizer in (run.optimizer, run.expected):
        optimizer.param_groups[0]["lr"] = torch.tensor(lr)
    run.step()
    captured, its = graph(), run.new_gradients()
    with captured.capture():
        run.optimizer.step()
    saved = copy.deepcopy(run.expected.state_dict())
    run.step(captured, its)
    run.optimizer.param_groups[0]["lr"].fill_(0.25)
    for optimizer in (run.optimizer, run.expected):
        optimizer.load_state_dict(saved)
    run.step(captured, its)
    run.assert_equal()


@pytest.mark.parametrize("kind", CAPTURABLE, ids=str)
@pytest.mark.parametrize("way", ["load", "reset", "reset the state alone"])
def test_what_begins_anew_does_so_in_place(
    graph: Make, kind: Kind, rng: np.random.Generator, way: str
) -> None:
    """Warm-up steps are undone after the capture, and other numbers are to be trained."""
    run = Run(kind, rng)
    start = [50.0 * p.detach() for p in run.params]
    first = copy.deepcopy(run.optimizer.state_dict())
    for _ in range(2):
        run.step()
    captured, its = graph(), run.new_gradients()
    with captured.capture():
        run.optimizer.step()
    before = {p: dict(state) for p, state in run.optimizer.state.items()}
    for optimizer, params in ((run.optimizer, run.params), (run.expected, run.expected_params)):
        for p, value in zip(params, start):
            p.data.copy_(value)
        if way == "load":
            optimizer.load_state_dict(first)
        else:
            optimizer.reset(statistics=way == "reset")
    gc.collect()
    for p, state in run.optimizer.state.items():
        assert state.keys() == before[p].keys()
        assert all(state[name] is value for name, value in before[p].items())
    for _ in range(2):
        run.step(captured, its)
        run.assert_equal()
    run.step()
    run.assert_equal()


def addresses(run: Run) -> set[int]:
    """Of what an optimizer's tables consist of."""
    tables = run.optimizer._planner.tables
    return {t.data_ptr() for table in tables for t in (table.words, table.chunks, table.tickets)}


def test_a_second_graph_over_the_same_tables_keeps_its_state(run: Run, graph: Make) -> None:
    for _ in range(2):
        captured = graph()
        run.fill(run.new_gradients())
        with captured.capture():
            run.optimizer.step()
        states = [weakref.ref(v) for own in run.optimizer.state.values() for v in own.values()]
        for own in run.optimizer.state.values():
            for name, value in own.items():
                own[name] = value.clone()
        gc.collect()
        assert all(state() is not None for state in states)
        run.expected.step()


def test_what_a_graph_uses_stays(run: Run, graph: Make) -> None:
    """Another group gets tables of its own; the graph goes on with the old ones."""
    captured, its = graph(), run.new_gradients()
    with captured.capture():
        run.optimizer.step()
    taken = addresses(run)
    extra = nn.Parameter(torch.ones(4))
    run.optimizer.add_param_group({"params": [extra]})
    extra.grad = torch.ones(4)
    run.optimizer.step()
    gc.collect()
    assert not taken & addresses(run)
    before = [p.detach().clone() for p in run.params]
    run.fill(its)
    captured.replay()
    assert not any(torch.equal(p, old) for p, old in zip(run.params, before))
    assert torch.equal(extra.grad, torch.ones(4))


def test_a_copy_has_no_part_in_the_graph(run: Run, graph: Make) -> None:
    with graph().capture():
        run.optimizer.step()
    assert run.optimizer._planner.captured
    assert not copy.deepcopy(run.optimizer)._planner.captured


class _Buffer:
    is_cuda = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.recorded: list[str] = []

    def record_stream(self, stream: str) -> None:
        self.recorded.append(stream)


def test_streams_that_use_the_buffers_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the allocator gives them away while a step on another stream than the first runs."""
    from yfkernels.optim._graphs import Streams

    devices = [torch.device("cuda", index) for index in range(2)]
    buffers = [_Buffer(device) for device in devices]
    streams = Streams(buffers)  # type: ignore[arg-type]
    for current in ("side", "main", "side", "main"):
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda device, name=current: f"{name} {device}"
        )
        streams.enter()
    for buffer, device in zip(buffers, devices):
        assert buffer.recorded == [f"side {device}", f"main {device}"]
