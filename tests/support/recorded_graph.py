"""Captured steps without a device.

What the compiled module is asked to do is recorded instead of a CUDA graph, and done again with the
same arguments, as a replay does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from support.cases import assert_same_bits, normal
from support.kinds import KINDS, Kind
from yfkernels.ops.backends import backend_of
from yfkernels.ops.native import cpu as native_cpu

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


def recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> Make:
    """What makes graphs, over the native backend as it is on a device."""
    native = backend_of("native", "cpu")
    recorder = Recorder(native._c)  # type: ignore[attr-defined]
    monkeypatch.setattr(native, "_c", recorder)
    # addresses go where kernels read them as they do on a device: by calls
    monkeypatch.setattr(native_cpu, "_on_host", lambda table: False)
    return lambda: Graph(recorder, monkeypatch)


class Run:
    """An optimizer that may be captured, and one like it that takes the same steps eagerly."""

    def __init__(
        self,
        kind: Kind,
        rng: np.random.Generator,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        self.rng = rng
        self.params = [nn.Parameter(normal(rng, torch.empty(s)).to(dtype)) for s in SHAPES]
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
            q.grad = normal(self.rng, q).to(q.dtype)
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

    def assert_same_parameters(self) -> None:
        assert_same_bits(
            [p.detach() for p in self.params], [q.detach() for q in self.expected_params]
        )

    def assert_equal(self) -> None:
        self.assert_same_parameters()
        assert_same_bits(self.optimizer.state_dict(), self.expected.state_dict())
