"""Tuning on the host for parameters on a device: one copy down, one wait, one copy up a device.

Without a device the same way is gone with parameters on the CPU, and every copy is counted.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import Site, assert_same_bits, normal, why_unusable
from support.kinds import KINDS, Kind
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.common.launches import work_of
from yfkernels import YellowFin
from yfkernels.ops.backends import backend_of, preferred
from yfkernels.sharding.shards import Sharding

TUNED = [kind for kind in KINDS if kind.saves == "tuner"]
SHAPES = ((5, 3), (7,), (1025,))
COPIES = ("copy_", "_to_copy", "_local_scalar_dense")
each_tuned = pytest.mark.parametrize("kind", TUNED, ids=str)


class Counted(TorchDispatchMode):
    """Counts the operations that copy, or that read a number on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name().removeprefix("aten::").partition(".")[0]
        if name in COPIES:
            self.calls[name] += 1
        return function(*args, **(kwargs or {}))


def parameters(rng: np.random.Generator, *dtypes: torch.dtype) -> list[nn.Parameter]:
    return [
        nn.Parameter(normal(rng, torch.empty(shape)).to(dtype))
        for dtype in dtypes
        for shape in SHAPES
    ]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := why_unusable(Site("native", "cpu")):
        pytest.skip(reason)
    monkeypatch.setattr("yfkernels.tuners.yellowfin.is_remote", lambda device: True)


@each_tuned
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaler"])
@pytest.mark.parametrize(
    "dtypes", [(torch.float32,), (torch.float32, torch.bfloat16)], ids=["one table", "two tables"]
)
def test_is_the_same_to_the_bit(
    dtypes: tuple[torch.dtype, ...],
    kind: Kind,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    *,
    scaled: bool,
    remote: None,
) -> None:
    params = parameters(rng, *dtypes)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer = kind.build(params, backend="native")
    near = kind.build(twins, backend="native")
    for step in range(6):
        for p, q in zip(params, twins):
            q.grad = normal(rng, q).to(q.dtype)
            if step == 3:
                q.grad.view(-1)[0] = torch.inf
            p.grad = q.grad.clone()
        for each, is_remote in ((optimizer, True), (near, False)):
            if scaled:
                each.grad_scale = torch.tensor(4.0)
                each.found_inf = torch.tensor(float(step == 1))
            with monkeypatch.context() as patched:
                patched.setattr(
                    "yfkernels.tuners.yellowfin.is_remote", lambda device, it=is_remote: it
                )
                each.step()
    if "sketch" in kind.name and len(dtypes) > 1:  # whose slots are added up in another order
        torch.testing.assert_close(params, twins, rtol=1e-2, atol=1e-3)
        return
    assert_same_bits([p.detach() for p in params], [q.detach() for q in twins])
    assert_same_bits(optimizer.state_dict(), near.state_dict())


@each_tuned
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaler"])
def test_copies(kind: Kind, rng: np.random.Generator, *, scaled: bool, remote: None) -> None:
    """Down, up, and into the state where that is kept on the device; nothing is read singly."""
    params = parameters(rng, torch.float32)
    optimizer = kind.build(params, backend="native")
    if scaled:
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    with Counted() as counted:
        optimizer.step()
    kept = kind.optimizer(params, **kind.options)._tuner.options.rule.move_sums > 0
    staged = 2 if kept else 1  # on the host, into pinned memory
    on_the_host = Counter(_local_scalar_dense=2 if scaled else 0)  # float() of what has come
    expected = Counter(copy_=2 + staged + kept)
    sketch = 1 if "sketch" in kind.name else 0
    assert counted.calls - Counter(_to_copy=sketch) == expected + on_the_host


def test_a_host_without_the_tables_backend_tunes_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Triton has no compiler for CPUs."""
    optimizer = YellowFin([nn.Parameter(torch.ones(3))])
    prepared: list[Any] = []
    monkeypatch.setattr(optimizer._tuner, "prepare", lambda *given: prepared.append(given))
    monkeypatch.setattr(backend_of("triton", "cpu"), "unusable", lambda device_type: "no compiler")
    table = SimpleNamespace(device=torch.device("cuda", 0), backend=backend_of("triton", "cuda"))
    plan: Any = SimpleNamespace(tables=[table], sharding=Sharding())
    optimizer._planner._prepare_tuner(plan, optimizer.param_groups)
    [(tables, sharding, num_groups, device, backend)] = prepared
    assert (tables, sharding, num_groups) == (plan.tables, plan.sharding, 1)
    assert (device.type, backend) == ("cpu", preferred("cpu"))


@pytest.mark.cuda
@each_tuned
def test_copies_on_a_device(kind: Kind, rng: np.random.Generator) -> None:
    """One each way, both with pinned memory."""
    params = [nn.Parameter(p.detach().cuda()) for p in parameters(rng, torch.float32)]
    optimizer = kind.build(params, backend="native")
    for p in params:
        p.grad = torch.ones_like(p)
    for _ in range(2):  # builds the tables
        optimizer.step()
    names = [work.name for work in work_of(optimizer.step) if work.name.startswith("Memcpy")]
    crossing = sorted(name for name in names if "DtoD" not in name)
    assert [name.partition(" (")[0] for name in crossing] == ["Memcpy DtoH", "Memcpy HtoD"]
    assert not any("Pageable" in name for name in crossing), crossing
