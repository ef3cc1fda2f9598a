"""Contestants: the bytes they are counted with, and what they need to take part."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from bench.speed.contestant import DTYPES
from bench.speed.contestants import CONTESTANTS
from bench.speed.rivals import PerTensorYellowFin
from yfkernels import YellowFin

# Bytes that the passes read and write per parameter: all fp32; bf16 parameters and gradients.
COUNTED_BYTES = {
    "yellowfin-robust": (24, 24),
    "yellowfin-diagonal": (32, 32),
    "yellowfin-compact": (26, 26),
    "yellowfin-published": (36, 36),
    "yellowfin-sketch": (24, 24),
    "lamb": (44, 46),
    "lamb-unclipped": (40, 44),
    "qhm": (20, 22),
    "qhadam": (28, 30),
    "adamw-fused": (28, 14),
    "adamw-fused+clip": (40, 20),
    "sgd-fused": (20, 10),
    "sgd-fused+clip": (32, 16),
    "sgd-foreach": (32, 16),
    "sgd-loop": (32, 16),
    "yellowfin-per-tensor": (80, 40),
    "apex-lamb": (52, 26),
    "apex-adam": (28, 22),
    "apex-sgd": (20, 10),
    "deepspeed-adam": (28, 14),
    "bnb-adamw8bit": (16, 10),
    "timm-adamw": (80, 40),
    "timm-sgdw": (40, 20),
    "timm-lamb": (104, 52),
    "pytorch-optimizer-lamb": (112, 56),
    "pytorch-optimizer-lamb-loop": (96, 48),
    "torch-optimizer-lamb": (100, 50),
    "qhoptim-qhm": (44, 22),
    "qhoptim-qhadam": (108, 54),
    "prodigy": (124, 62),
}


def test_every_contestant_is_counted() -> None:
    counted = {
        name: tuple(contestant.bytes_per_param(dtype) for dtype in DTYPES.values())
        for name, contestant in CONTESTANTS.items()
    }
    assert {name: counted[name] for name in COUNTED_BYTES} == COUNTED_BYTES
    # a new optimizer's are those of the registry
    assert all(CONTESTANTS[name].ours for name in counted.keys() - COUNTED_BYTES.keys())


def test_per_tensor_rival_takes_the_same_steps() -> None:
    """Else the comparison would not be about the same work."""
    torch.manual_seed(0)
    shapes = ((7, 5), (11,), (3, 2, 2))
    ours = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    theirs = [param.detach().clone().requires_grad_() for param in ours]
    fused, rival = YellowFin(ours, robust=False, backend="torch"), PerTensorYellowFin(theirs)
    for iteration in range(60):
        scale = {20: 1e3, 40: 1e6}.get(iteration, 1.0)
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = scale * torch.randn_like(mine)
            other.grad = mine.grad.clone()
        fused.step()
        rival.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_other_packages() -> None:
    rows = [row for row in CONTESTANTS.values() if row.package]
    assert {row.package for row in rows} == {
        "apex",
        "bitsandbytes",
        "deepspeed",
        "pytorch_optimizer",
        "qhoptim",
        "timm",
        "torch_optimizer",
    }
    assert not any(row.essential for row in rows)
    absent = [row for row in rows if find_spec(row.package or "") is None]
    assert all(row.why_absent == f"{row.package} is not installed" for row in absent)
    assert all(row.why_absent is None for row in rows if row not in absent)
