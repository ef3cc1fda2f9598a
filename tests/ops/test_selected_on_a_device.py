"""Where there is a device, `-m cuda` selects the tests of the Triton kernels, and they suit one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.cases import Site, why_unusable

ROOT = Path(__file__).resolve().parents[2]
KERNELS = [f"tests/ops/test_triton_{name}.py" for name in ("launch", "passes", "tune", "updates")]
BACKEND = "tests/ops/test_triton_backend.py"
REASON = why_unusable(Site("triton", "cpu"))
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here"),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]


def on_a_pretended_device(*arguments: str) -> tuple[Sequence[str], str]:
    """The lines that pytest prints, and the last of them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.pretend_cuda", "-m", "cuda"]
    command += ["-p", "no:cacheprovider", *arguments]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    env.pop("PYTEST_XDIST_WORKER", None)  # else it takes itself for one
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    return lines, lines[-1]


def test_every_test_of_a_kernel_is_selected() -> None:
    lines, last = on_a_pretended_device("--collect-only", *KERNELS, BACKEND)
    selected = [line for line in lines if "::" in line]
    assert {line.partition("::")[0] for line in selected} == {*KERNELS, BACKEND}
    assert sum(line.startswith(BACKEND) for line in selected) == 2
    assert "(8 deselected)" in last  # those of Python alone


def test_they_do_what_a_device_allows() -> None:
    """No tensor of the device meets NumPy or one of the host, and chunks are those of a test."""
    chosen = "ragged and float32 and (lamb or diagonal) or cut_chunks and 2 or same_bits or ratio"
    _, last = on_a_pretended_device("-x", "-k", chosen, *KERNELS)
    assert "passed" in last
