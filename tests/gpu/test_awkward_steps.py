"""The script that runs under compute-sanitizer does run, and covers what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from awkward_steps import DTYPES, MANY, MODES, SHAPES, STEPS, Case, cases, random
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_awkward_steps(device: str) -> None:
    backend = "native" if device == "cuda" else "auto"
    result = subprocess.run(
        [sys.executable, "tests/gpu/awkward_steps.py", "--device", device, "--backend", backend],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "40 optimizers took 4 steps each\n"


def test_without_a_device_it_fails() -> None:
    """Else a sanitizer would call it clean."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    result = subprocess.run(
        [sys.executable, "tests/gpu/awkward_steps.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert result.returncode != 0


class Allocations(TorchDispatchMode):
    """Counts the operators that ask for memory."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func.overloadpacket in (
            *(torch.ops.aten.empty, torch.ops.aten.randn, torch.ops.aten._to_copy),
            *(torch.ops.aten.clone, torch.ops.aten.zeros),
        )
        return func(*args, **kwargs or {})


def test_allocations_are_few() -> None:
    """Under a sanitizer each takes milliseconds: of the many tensors none has its own."""
    with Allocations() as seen:
        tensors = random(
            (0, 1, 3, 0, 1, 3, 0, 1, 3, 0), Case(DTYPES[1], "exact", True, True), "cpu"
        )
    assert len(tensors) == len(SHAPES) + MANY
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) <= 1 + len(SHAPES)
    assert seen.count <= 3 + len(SHAPES)
    assert sum(case.many for case in cases(few=False)) == 1
    # parameters and gradients of every step, of all cases together
    assert len(cases(few=False)) * (1 + STEPS) * seen.count < 2500


def test_few_cases_have_every_mode() -> None:
    assert [case.mode for case in cases(few=True)] == list(MODES)
    assert not any(case.many for case in cases(few=True))
