"""The Triton backend as a module: when it is usable, and its writes to the device."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tables import DEVICE, ON_DEVICE, backend

from yfkernels.ops.triton import availability

REASON = backend.unusable(DEVICE)
needs_triton = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@needs_triton
@pytest.mark.parametrize("device", [pytest.param(DEVICE, marks=ON_DEVICE)])
def test_write_words(device: str, rng: np.random.Generator) -> None:
    words = [int(word) for word in rng.integers(-(2**63), 2**63, 300)]
    target = torch.zeros(300, 12, dtype=torch.int64, device=device)
    backend.write_words(target[:, 3], words)
    assert target[:, 3].tolist() == words
    assert not target[:, :3].any()
    assert not target[:, 4:].any()
    values = torch.tensor([0.1, -2.0], dtype=torch.float64)
    doubles = torch.zeros(2, dtype=torch.float64, device=device)
    backend.write_words(doubles, values.view(torch.int64).tolist())
    assert doubles.tolist() == values.tolist()


@needs_triton
@pytest.mark.cuda
def test_write_words_in_a_graph(rng: np.random.Generator) -> None:
    """Replays write what was captured, whatever has become of host memory since."""
    words = [int(word) for word in rng.integers(-(2**63), 2**63, 300)]
    target = torch.zeros(300, 12, dtype=torch.int64, device="cuda")
    backend.write_words(target[:, 3], [0] * 300)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        backend.write_words(target[:, 3], words)
    for _ in range(3):
        backend.write_words(target[:, 3], [1] * 300)
        graph.replay()
        assert target[:, 3].tolist() == words


def in_fresh_python(code: str) -> str:
    """What the code prints where TRITON_INTERPRET is not set."""
    command = [sys.executable, "-c", code]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


ASK = (
    """from yfkernels.ops.backends import backend_status; print(backend_status("cpu")["triton"])"""
)


def test_importing_the_backend_does_not_import_triton() -> None:
    code = f"{ASK}; import sys; print('triton' in sys.modules)"
    assert in_fresh_python(code).splitlines()[-1] == "False"


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_says_why_it_is_unusable() -> None:
    assert in_fresh_python(ASK).endswith("TRITON_INTERPRET=1 runs its interpreter")
    late = "import triton.language, os; os.environ['TRITON_INTERPRET'] = '1'; " + ASK
    assert in_fresh_python(late) == "set TRITON_INTERPRET before Triton is imported"
    assert "mps" in str(backend.unusable("mps"))


def test_says_that_triton_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "find_spec", lambda name: None)
    assert availability.unusable.__wrapped__("cpu") == "Triton is not installed"


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_says_what_is_wrong_with_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the optimizers would say it in a traceback of Triton's."""
    with monkeypatch.context() as patched:
        patched.setattr("triton.__version__", "3.5.1")
        old = availability._refusal(interpreter=True)
    assert old == "Triton 3.5.1 is too old: install 3.6 or newer"
    monkeypatch.setitem(sys.modules, "triton.language", None)
    broken = str(availability._refusal(interpreter=True))
    assert broken.startswith("Triton cannot be imported: import of triton.language halted")
