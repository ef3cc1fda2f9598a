"""Which GPUs the compiled module serves: machine code within a major version, PTX beyond."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yfkernels.ops.native.cuda import NativeCuda, runs_on


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_80 compute_80", (9, 0), True),
        ("sm_80 sm_90 compute_90", (12, 0), True),
        ("sm_120 compute_120", (9, 0), False),
        ("sm_90a", (9, 0), True),
        ("", (9, 0), False),
    ],
)
def test_runs_on(archs: str, capability: tuple[int, int], runs: bool) -> None:
    assert runs_on(archs, capability) == runs


class Compiled:
    """Stands in for a module that was compiled with CUDA."""

    def __init__(self, archs: str = "sm_80", devices: int = 2) -> None:
        self.archs = archs
        self.devices = devices
        self.written: list[Any] = []

    def cuda_device_count(self) -> tuple[int, str]:
        return self.devices, "" if self.devices else "the driver is too old"

    def build_info(self) -> dict[str, str]:
        return {"cuda_archs": self.archs}

    def cuda_write_words(self, *given: Any) -> None:
        self.written.append(given)


def refusal(compiled: Any, device_type: str = "cuda") -> str:
    return str(NativeCuda(compiled).unusable(device_type))


def test_it_says_why_it_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without kernels, a build without CUDA, no driver, a GPU that it has no code for."""
    capabilities = [(8, 0), (9, 0)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    assert refusal(Compiled("sm_80 compute_80")) == "None"
    assert refusal(Compiled(), "mps") == "it has no kernels for mps devices"
    assert refusal(SimpleNamespace()).endswith("was built without CUDA")
    assert refusal(Compiled(devices=0)) == "no CUDA device: the driver is too old"
    message = refusal(Compiled("sm_80"))
    assert "compiled for sm_80, which cuda:1 (sm_90) cannot run" in message
    assert message.endswith("YFK_CUDA_ARCHS=90")


def test_calls_go_to_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(device_index=1, cuda_stream=0x5000)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    compiled: Any = Compiled()
    target = torch.zeros(2, 3, dtype=torch.int64)
    NativeCuda(compiled).write_words(target[:, 1], [4, 5])
    assert compiled.written == [(target[:, 1].data_ptr(), 3, [4, 5], 1, 0x5000)]
