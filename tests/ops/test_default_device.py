"""torch's default device, as `with torch.device(...)` sets it, is nobody's business here."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cases import assert_same_bits
from support.kinds import KINDS, Kind
from torch import nn

import yfkernels
from yfkernels import BatchSizeSampler, single_step
from yfkernels.ops.backends import BACKENDS, backend_of

ONE_TABLE = (torch.float32, torch.float32)
MIXED = (torch.float32, torch.bfloat16, torch.float64, torch.complex64)
MAKERS = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "ones", "rand"),
    *("randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros"),
}
INTERPRETED = ("YellowFin", "LAMB")  # slowly
USABLE = [name for name in BACKENDS if backend_of(name, "cpu").unusable("cpu") is None]


def run(kind: Kind, backend: str, dtypes: Sequence[torch.dtype], device: str | None) -> list[Any]:
    """Constructs and steps with that default device; parameters and gradients are on the CPU."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(30, 5), (17,), (), (4, 4)]
    params, grads = [], []
    for shape, dtype in zip(shapes, dtypes):
        params.append(nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))
        grads.append(
            [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4)]
        )
    found_inf = torch.zeros(1)
    seen = []
    with torch.device(device) if device else contextlib.nullcontext():
        groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.1}]
        optimizer = kind.build(groups, backend=backend, **kind.measures)
        optimizer.found_inf = found_inf
        for step in range(4):
            for p, own in zip(params, grads):
                p.grad = own[step].to(p.dtype)
            optimizer.step()
            seen.append(optimizer.diagnostics())
    state = [dict(optimizer.state[p]) for p in params]
    return [seen, state, [p.detach() for p in params], optimizer._tuner.state]


@pytest.mark.parametrize("dtypes", [ONE_TABLE, MIXED], ids=["one", "mixed"])
@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        pytest.param(kind, backend, id=f"{kind}-{backend}")
        for kind in KINDS
        for backend in USABLE
        if backend != "triton" or kind.name in INTERPRETED
    ],
)
def test_a_step(kind: Kind, backend: str, dtypes: Sequence[torch.dtype]) -> None:
    assert_same_bits(*(run(kind, backend, dtypes, device) for device in (None, "meta")))


@pytest.mark.parametrize("compiled", [True, False])
def test_single_step(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(
            backend_of("native", "cpu"), "unusable", lambda device_type: "as if it were not there"
        )
    expected = single_step(1.0, 1.0, 1.0, 2.0)
    with torch.device("meta"):
        assert single_step(1.0, 1.0, 1.0, 2.0) == expected


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches(shuffle: bool) -> None:
    expected = list(BatchSizeSampler(range(10), batch_size=4, shuffle=shuffle))
    with torch.device("meta"):
        assert list(BatchSizeSampler(range(10), batch_size=4, shuffle=shuffle)) == expected


@pytest.mark.parametrize("room", ["curvature", "ops", "optim", "sharding", "tuners"])
def test_every_tensor_names_its_device(room: str) -> None:
    """Also those that only a GPU would ask for."""
    folder = Path(yfkernels.__file__).parent / room
    without = []
    files = sorted(folder.rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("torch"), attr=name)):
                    named = any(keyword.arg == "device" for keyword in node.keywords)
                    if name in MAKERS and not named:
                        without.append(f"{path.relative_to(folder)}:{node.lineno}")
    assert not without
