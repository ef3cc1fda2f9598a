"""Captured steps: a replay finds its addresses, numbers and memory, whatever came between.

Without a device (support/recorded_graph.py); tests/optim/test_*_cuda.py have real graphs.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, why_unusable
from support.kinds import Kind
from support.recorded_graph import CAPTURABLE, Make, Run, recorded_graphs
from torch import nn

from yfkernels import QHM

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


def test_what_the_host_decides_is_not_captured(graph: Make) -> None:
    p = nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    optimizer = QHM([p], lr=0.1)
    with graph().capture(), pytest.raises(RuntimeError, match=r"QHM\(capturable=False\) cannot be"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4))


def test_parameters_on_two_devices_are_not_captured(
    run: Run, graph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph has the work of one. Here "meta" stands for the other."""
    [table] = run.optimizer._planner._plan.tables
    other = SimpleNamespace(device=torch.device("meta"))
    monkeypatch.setattr(run.optimizer._planner._plan, "tables", [table, other])
    run.new_gradients()
    with graph().capture(), pytest.raises(RuntimeError, match="with parameters on cpu and meta"):
        run.optimizer.step()
    assert not run.optimizer._planner.captured


class OnDevice(torch.Tensor):
    """Says that it lies on a device: to read it on the host would wait for that."""

    is_cuda = True  # type: ignore[assignment]

    def __float__(self) -> float:
        raise AssertionError("read on the host")


@pytest.mark.parametrize("kind", CAPTURABLE, ids=str)
def test_a_learning_rate_on_a_device_is_read_there(kind: Kind, rng: np.random.Generator) -> None:
    """As a program writes it, in every step."""
    run = Run(kind, rng)
    start = run.optimizer.param_groups[0]["lr"]
    there = torch.tensor(start, dtype=torch.float64).as_subclass(OnDevice)
    run.optimizer.param_groups[0]["lr"] = there
    for factor in (1.0, 0.5, 0.5, 2.0):
        run.expected.param_groups[0]["lr"] = factor * start
        there.fill_(factor * start)
        run.step()
        run.assert_same_parameters()
