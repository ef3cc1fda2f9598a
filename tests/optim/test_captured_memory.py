"""What captured steps have used stays, and is what a load or reset() works on.

Without a device (support/recorded_graph.py); tests/optim/test_*_cuda.py have real graphs.
"""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, why_unusable
from support.kinds import Kind
from support.recorded_graph import CAPTURABLE, Make, Run, recorded_graphs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from yfkernels.ops.backends import backend_of

pytestmark = pytest.mark.skipif(
    why_unusable(Site("native", "cpu")) is not None, reason="records the compiled module's calls"
)


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Make:
    return recorded_graphs(monkeypatch)


@pytest.fixture(params=CAPTURABLE, ids=str)
def run(request: pytest.FixtureRequest, graph: Make, rng: np.random.Generator) -> Run:
    made = Run(request.param, rng)
    for _ in range(2):
        made.step()
    return made


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


@pytest.mark.parametrize(
    ("live", "saved_lr"),
    [
        (torch.tensor(0.5), torch.tensor(0.5)),
        (torch.tensor([0.5]), torch.tensor([0.5])),
        (torch.tensor(0.5), torch.tensor([0.5])),
        (torch.tensor([0.5]), 0.5),
    ],
    ids=["scalar", "vector", "scalar from vector", "vector from number"],
)
def test_a_learning_rate_of_any_shape_is_loaded(
    run: Run, graph: Make, live: torch.Tensor, saved_lr: Any
) -> None:
    there = run.optimizer.param_groups[0]["lr"] = live.clone()
    run.expected.param_groups[0]["lr"] = copy.deepcopy(saved_lr)
    run.step()
    captured, its = graph(), run.new_gradients()
    with captured.capture():
        run.optimizer.step()
    saved = copy.deepcopy(run.expected.state_dict())
    run.step(captured, its)
    there.fill_(0.25)
    for optimizer in (run.optimizer, run.expected):
        optimizer.load_state_dict(saved)
    run.step(captured, its)
    run.assert_same_parameters()
    assert_same_bits(run.optimizer.state_dict()["state"], run.expected.state_dict()["state"])
    assert run.optimizer.param_groups[0]["lr"] is there
    assert there == 0.5


@pytest.mark.parametrize("kind", CAPTURABLE, ids=str)
@pytest.mark.parametrize("way", ["load", "reset", "reset the state alone"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_begins_anew_does_so_in_place(
    graph: Make, kind: Kind, rng: np.random.Generator, way: str, dtype: torch.dtype
) -> None:
    """Warm-up steps are undone after the capture, and other numbers are to be trained."""
    run = Run(kind, rng, dtype)
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


def test_a_refused_capture_leaves_nothing_behind(run: Run, graph: Make) -> None:
    """One with another group is: tables are made outside graphs."""
    extra = nn.Parameter(torch.ones(4))
    run.optimizer.add_param_group({"params": [extra]})
    extra.grad = torch.ones(4)
    run.optimizer.step()
    run.optimizer.param_groups.pop()
    run.optimizer.state.pop(extra)
    with graph().capture(), pytest.raises(RuntimeError, match="take at least one step"):
        run.optimizer.step()
    run.optimizer.step()
    run.optimizer.reset()
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    run.optimizer.step()


def test_plain_torch_copies_nothing_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured step must not wait, which a copy of memory that is not pinned does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    made = torch.zeros(4, 2, dtype=torch.float64)[:, 1]
    words = [1, -(2**63), 2**62 + 1, 0]
    with Operators() as operators:
        backend_of("torch", "cpu").write_words(made, words)
    assert "copy_" not in operators.seen
    assert made.view(torch.int64).tolist() == words


class Operators(TorchDispatchMode):
    """The names of the operators that have run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        self.seen.add(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


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
