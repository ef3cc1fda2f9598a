"""The script that runs under compute-sanitizer does run, and covers what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    assert result.stdout == "30 optimizers took 4 steps each\n"


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
