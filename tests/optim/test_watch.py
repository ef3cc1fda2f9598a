"""The walk over the live tensors: compiled and in Python it sees the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, normal
from support.kinds import KINDS, Kind
from test_live_state import MOVES, Pair, clear
from torch import nn

from yfkernels.ops.backends import build_info
from yfkernels.ops.native.cpu import compiled_watch
from yfkernels.ops.watch import Entry, Place, PythonWatch, Seen

pytestmark = [
    pytest.mark.kernel_free,
    pytest.mark.skipif(
        not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
        reason="torch before 2.10 has no DLPack exchange API: there is the walk in Python alone",
    ),
    pytest.mark.skipif(build_info() is None, reason="yfkernels._C was not built"),
]
NATIVE = Site("native", "cpu")


class Both:
    """Asks the two, and is content only if they say the same."""

    seen: list[int]

    def __init__(self, tables: Sequence[Any], sizes: Sequence[int], entries: Any) -> None:
        compiled = compiled_watch(tables, sizes, entries)
        assert compiled is not None
        self.compiled = compiled
        self.python = PythonWatch(tables, sizes, entries)
        self.tables = tables
        Both.seen = []

    def look(self, groups: Any, state: Any) -> int:
        one, other = self.compiled.look(groups, state), self.python.look(groups, state)
        # the compiled one writes what has moved into tables in host memory, and does not tell
        told = ~(Seen.MOVED if not other & Seen.PLAN else Seen.MOVED | Seen.COPY | Seen.UPDATED)
        if other & Seen.PLAN:
            told &= ~Seen.NO_GRADIENT
        assert one & told == other & told
        if not one & Seen.PLAN:
            for index, table in enumerate(self.tables):
                if not table.backend.fused:
                    continue
                assert self.compiled.present(index) == self.python.present(index)
                for column in table.columns:
                    assert table.column(column).tolist() == self.python._addresses[index][column]
        Both.seen.append(one)
        return one

    def moved(self) -> Any:
        return self.compiled.moved()

    def present(self, table: int) -> Any:
        return self.compiled.present(table)

    def forget_grads(self) -> None:
        self.compiled.forget_grads()
        self.python.forget_grads()


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yfkernels.optim._plan.watch_over", Both)


def other_gradients(pair: Pair) -> None:
    """Strided, lazily negated, missing, of another dtype, empty-handed."""
    params = pair.params
    params[0].grad = torch.ones(3, 5).mT
    params[1].grad = torch._neg_view(torch.ones(7))
    params[2].grad = None


def moved_parameters(pair: Pair) -> None:
    for p in pair.params:
        p.data = p.data.clone()


def another_layout(pair: Pair) -> None:
    pair.params[0].data = pair.params[0].data.mT.contiguous().mT


def another_group(pair: Pair) -> None:
    extra = nn.Parameter(torch.ones(4))
    extra.grad = torch.ones(4)
    pair.optimizer.add_param_group({"params": [extra]})


def no_gradients(pair: Pair) -> None:
    for p in pair.params:
        p.grad = None


CHANGES: list[Callable[[Any], None]] = [
    *(lambda pair, move=move: move(pair.optimizer) for move in (*MOVES, clear)),
    other_gradients,
    moved_parameters,
    another_layout,
    another_group,
    no_gradients,
]


@pytest.mark.parametrize("kind", [k for k in KINDS if k.core or k.name in ("LAMB", "QHM")], ids=str)
def test_the_two_walks_see_the_same(kind: Kind, both: None, rng: np.random.Generator) -> None:
    pair = Pair(kind, NATIVE, rng)
    pair.train(2)
    for _ in range(40):
        CHANGES[rng.integers(len(CHANGES))](pair)
        pair.optimizer.step()
        for p in pair.params:
            p.grad = normal(rng, p).float()
        pair.optimizer.step()
    assert Both.seen


def test_the_python_walk_serves_all(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """As with a torch before 2.10, where the extension has no other."""
    monkeypatch.setattr("yfkernels.optim._plan.watch_over", PythonWatch)
    for kind in KINDS:
        pair = Pair(kind, NATIVE, rng)
        pair.train(2)
        for move in MOVES:
            move(pair.optimizer)
            moved_parameters(pair)
            pair.train(1)
        pair.assert_equal()


def test_memory_without_a_name_is_left_to_python() -> None:
    """DLPack has names for the memory of some devices."""
    nameless = torch.ones(3, device="meta")
    assert compiled_watch([], [1], [Entry(Place.NOWHERE, 0, 0, nameless, False, [])]) is None


def test_a_watch_keeps_nothing_alive() -> None:
    """A parameter that knows its optimizer: the cycle is collected, as with torch's."""
    import gc
    import weakref

    p = nn.Parameter(torch.ones(4))
    optimizer = KINDS[0].build([p], backend="native")
    p.owner = optimizer
    for _ in range(2):
        (p * 2.0).sum().backward()
        optimizer.step()
    gone = weakref.ref(optimizer)
    del p, optimizer
    gc.collect()
    assert gone() is None
