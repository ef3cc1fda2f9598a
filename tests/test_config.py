"""What `show_config` says of each device, and how to get the native backend where it is missing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yfkernels import config, show_config
from yfkernels._version import __version__

NOT_BUILT = "the extension yfkernels._C was not built"
WITHOUT_CUDA = "the extension yfkernels._C was built without CUDA"
NO_TRITON = "Triton is not installed"


def built(code: str, reason: str = "") -> config.Build:
    compiled = code != "none"
    return config.Build(
        code=code,
        reason=reason,
        compiler="GNU 14.2.1" if compiled else "",
        cuda_version="13.0.88" if code == "cuda" else "",
        cuda_archs="sm_90" if code == "cuda" else "",
        cuda_archs_from="named by YFK_CUDA_ARCHS" if code == "cuda" else "",
        instruction_set="avx2" if compiled else "",
        threads="libgomp.so.1" if compiled else "",
    )


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one model, and a torch that sees them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(config, "_install_again", lambda variables="": f"{variables} again".strip())


def shown(
    monkeypatch: pytest.MonkeyPatch, build: config.Build, kind: str, **unusable: str
) -> list[str]:
    """The lines on one kind of device, where all backends serve but those named with a reason."""
    serving = next(name for name in config.BACKENDS if name not in unusable)
    everywhere = dict.fromkeys(config.BACKENDS)
    monkeypatch.setattr(config, "DEVICE_TYPES", (kind,))
    monkeypatch.setattr(config, "_build", lambda: build)
    monkeypatch.setattr(config, "backend_status", lambda kind: everywhere | unusable)
    monkeypatch.setattr(config, "preferred", lambda kind: SimpleNamespace(name=serving))
    return [" ".join(line) for line in config._lines(config.config())][3:]


def test_every_device_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_config()
    names = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()]
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cuda"]
    assert [name for name in names if name] == ["yfkernels", "torch", "build", "cpu", *devices]


def test_the_native_backend_leaves_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, gpus: None, threads: None
) -> None:
    torch.set_num_threads(2)
    on_cpu = shown(monkeypatch, built("cpu"), "cpu", triton="no compiler")
    assert on_cpu == ["cpu native (avx2, 2 threads, libgomp.so.1), nothing to do"]
    assert shown(monkeypatch, built("cuda"), "cuda", triton=NO_TRITON) == [
        "cuda:0 native (NVIDIA H100, sm_90), nothing to do",
        "cuda:1 native (NVIDIA H100, sm_90), nothing to do",
    ]


def test_on_the_cpu_it_says_why_not_and_how_to_build(
    monkeypatch: pytest.MonkeyPatch, gpus: None, threads: None
) -> None:
    torch.set_num_threads(1)
    lines = shown(monkeypatch, built("none", "no compiler"), "cpu", native=NOT_BUILT, triton="no")
    assert lines == [
        "cpu torch (1 thread)",
        f" not native: {NOT_BUILT}",
        " to do: change what kept it from being built, then: again",
    ]
    lines = shown(monkeypatch, built("none", "YFK_BUILD=none"), "cpu", native=NOT_BUILT)
    assert lines[-1] == " to do: YFK_BUILD=auto again"
    lines = shown(monkeypatch, built("none"), "cpu", native="it cannot be loaded")
    assert lines[-1] == " to do: again"


@pytest.mark.parametrize(
    ("code", "why", "to_do"),
    [
        ("cpu", WITHOUT_CUDA, "put nvcc on PATH, then: YFK_BUILD=cuda again"),
        (
            "cuda",
            "no CUDA device: the driver is too old",
            "update the driver, or put CUDA 12.8's nvcc on PATH, then: YFK_BUILD=cuda again",
        ),
        ("cuda", "it was compiled for sm_80", "YFK_BUILD=cuda YFK_CUDA_ARCHS=90 again"),
    ],
)
def test_on_a_gpu_it_says_why_not_and_how_to_build(
    monkeypatch: pytest.MonkeyPatch, gpus: None, code: str, why: str, to_do: str
) -> None:
    assert shown(monkeypatch, built(code), "cuda", native=why) == [
        "cuda:0 triton (NVIDIA H100, sm_90)",
        "cuda:1 triton (NVIDIA H100, sm_90)",
        f" not native: {why}",
        f" to do: {to_do}",
    ]
    lines = shown(monkeypatch, built(code), "cuda", native=why, triton=NO_TRITON)
    assert lines[0] == "cuda:0 torch (NVIDIA H100, sm_90)"
    assert lines[2:4] == [f" not native: {why}", f" not triton: {NO_TRITON}"]


def test_there_is_nothing_to_do_for_amd(monkeypatch: pytest.MonkeyPatch, gpus: None) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    lines = shown(monkeypatch, built("cpu"), "cuda", native=WITHOUT_CUDA, triton="for NVIDIA's")
    assert [line for line in lines if "to do" in line] == []


@pytest.mark.parametrize(
    ("cuda", "code", "why"),
    [
        (None, "cuda", f"torch {torch.__version__} is built without CUDA"),
        ("12.8", "cuda", "the driver is too old"),
        ("12.8", "cpu", "torch finds none"),
    ],
)
def test_without_a_gpu_it_says_why(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, code: str, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    native = "no CUDA device: the driver is too old"
    assert shown(monkeypatch, built(code), "cuda", native=native) == [f"cuda no device: {why}"]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (built("none", "YFK_BUILD=none"), "pure Python: YFK_BUILD=none"),
        (built("none"), "pure Python"),
        (built("cpu", "nvcc was not found"), "GNU 14.2.1, without CUDA: nvcc was not found"),
        (built("cuda"), "GNU 14.2.1, CUDA 13.0.88 for sm_90 (named by YFK_CUDA_ARCHS)"),
    ],
)
def test_the_build_is_one_line(build: config.Build, text: str) -> None:
    assert config._describe(build) == text


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            {"url": "file:///my%20code/yfkernels", "dir_info": {}},
            "YFK_BUILD=cuda pip install --force-reinstall --no-deps '/my code/yfkernels'",
        ),
        (
            {"url": "file:///dist/yfkernels.whl", "archive_info": {}},
            "YFK_BUILD=cuda pip install --force-reinstall --no-deps .  (in a checkout)",
        ),
        (
            None,
            "YFK_BUILD=cuda pip install --force-reinstall --no-deps --no-cache-dir "
            f"--no-binary yfkernels yfkernels=={__version__}",
        ),
    ],
)
def test_it_is_installed_again_from_where_it_came(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: Any, command: str
) -> None:
    monkeypatch.setattr(config, "__file__", str(tmp_path / "yfkernels" / "config.py"))
    recorded = None if origin is None else json.dumps(origin)
    found = SimpleNamespace(read_text=lambda name: recorded)
    monkeypatch.setattr(config, "distribution", lambda name: found)
    assert config._install_again("YFK_BUILD=cuda") == command


def test_in_a_checkout_it_is_built_in_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "csrc").mkdir()
    monkeypatch.setattr(config, "__file__", str(tmp_path / "yfkernels" / "config.py"))
    built_in_place = f"cd {tmp_path} && python setup.py build_ext --inplace"
    assert config._install_again() == built_in_place
