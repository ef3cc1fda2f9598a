"""What was built, which devices this machine has, and which backend runs on each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from shlex import quote
from typing import TypedDict
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch

from yfkernels._version import __version__
from yfkernels.ops.backends import (
    BACKENDS,
    archs_from,
    backend_status,
    build_info,
    left_out,
    preferred,
)

DEVICE_TYPES = ("cpu", "cuda")
NO_DEVICE = "no CUDA device: "  # how the native backend says so


class Build(TypedDict):
    """How the compiled module was built.

    Attributes:
        code: "cuda" (CPU and CUDA code), "cpu", or "none" (pure Python).
        reason: why something was left out; empty if nothing was, or nobody knows.
        compiler: name and version of the C++ compiler. Empty in pure Python, like the five fields
            below.
        cuda_version: version of nvcc.
        cuda_archs: GPU architectures, such as "sm_80 sm_90 compute_90".
        cuda_archs_from: what decided them: an environment variable, the visible GPUs, or that there
            was none.
        instruction_set: the instruction set that the CPU kernels use on this processor.
        threads: the threads they run on: the name of PyTorch's OpenMP library, or "own threads".
    """

    code: str
    reason: str
    compiler: str
    cuda_version: str
    cuda_archs: str
    cuda_archs_from: str
    instruction_set: str
    threads: str


class Service(TypedDict):
    """The backend that `backend="auto"` picks on one kind of device.

    Attributes:
        backend: its name, or None if no such device is visible.
        unusable: the backends that cannot be used there, with the reason for each.
        to_do: what brings the native backend; empty if it serves, or there is nothing to serve.
    """

    backend: str | None
    unusable: dict[str, str]
    to_do: str


class Config(TypedDict):
    """What `config` returns.

    Attributes:
        version: the version of yfkernels.
        torch: the version of torch.
        build: how the compiled module was built.
        devices: a description of each visible device, by torch's name for it ("cpu", "cuda:0").
        services: the backend for each kind of device.
    """

    version: str
    torch: str
    build: Build
    devices: dict[str, str]
    services: dict[str, Service]


def config() -> Config:
    """Returns what `show_config` prints.

    Example:
        >>> sorted(yfkernels.config.config()["services"])
        ['cpu', 'cuda']
    """
    build, devices = _build(), _devices()
    return Config(
        version=__version__,
        torch=torch.__version__,
        build=build,
        devices=devices,
        services={kind: _service(kind, build, devices) for kind in DEVICE_TYPES},
    )


def show_config() -> None:
    """Prints version and build, and for each device what serves it.

    Where that is not the native backend, the reason follows, and what to do about it.
    `yfkernels config` prints the same.

    Example:
        >>> yfkernels.show_config()  # doctest: +ELLIPSIS
        yfkernels  ...
    """
    print("\n".join(f"{name:10} {text}" for name, text in _lines(config())))


def _lines(found: Config) -> Iterator[tuple[str, str]]:
    """A name, empty in the later lines of one subject, and what is said of it."""
    build = found["build"]
    yield "yfkernels", found["version"]
    yield "torch", found["torch"]
    yield "build", _describe(build)
    for kind, service in found["services"].items():
        backend, unusable = service["backend"], service["unusable"]
        if backend is None:
            yield kind, f"no device: {_why_no_device(build, unusable)}"
            continue
        for name, device in found["devices"].items():
            if torch.device(name).type != kind:
                continue
            if backend != "native":
                yield name, f"{backend} ({device})"
            elif kind == "cpu":
                how = f"{build['instruction_set']}, {device}, {build['threads']}"
                yield name, f"native ({how}), nothing to do"
            else:
                yield name, f"native ({device}), nothing to do"
        for faster in BACKENDS[: BACKENDS.index(backend)]:
            if (kind, faster) != ("cpu", "triton"):  # an interpreter, never chosen
                yield "", f"not {faster}: {unusable[faster]}"
        if service["to_do"]:
            yield "", f"to do: {service['to_do']}"


def _why_no_device(build: Build, unusable: dict[str, str]) -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if build["code"] == "cuda" and "native" in unusable:
        return unusable["native"].removeprefix(NO_DEVICE)
    return "torch finds none"


def _build() -> Build:
    info = build_info() or {}
    cuda_version = info.get("cuda_version", "")
    return Build(
        code="cuda" if cuda_version else "cpu" if info else "none",
        reason=left_out(),
        compiler=info.get("compiler", ""),
        cuda_version=cuda_version,
        cuda_archs=info.get("cuda_archs", ""),
        cuda_archs_from=archs_from() if cuda_version else "",
        instruction_set=info.get("instruction_set", ""),
        threads=info.get("threads", ""),
    )


def _devices() -> dict[str, str]:
    threads = torch.get_num_threads()
    devices = {"cpu": f"{threads} thread{'s' * (threads > 1)}"}
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        devices[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}"
    return devices


def _service(kind: str, build: Build, devices: dict[str, str]) -> Service:
    visible = any(torch.device(name).type == kind for name in devices)
    unusable = {name: why for name, why in backend_status(kind).items() if why is not None}
    return Service(
        backend=preferred(kind).name if visible else None,
        unusable=unusable,
        to_do=_to_do(kind, build, unusable["native"]) if visible and "native" in unusable else "",
    )


def _to_do(kind: str, build: Build, why_not_native: str) -> str:
    """What brings the native backend to devices that are there."""
    if kind == "cuda" and torch.version.hip:  # AMD's, for which there is none
        return ""
    if build["code"] == "none":
        if build["reason"].startswith("YFK_BUILD="):
            return _install_again("YFK_BUILD=auto")
        cause = "change what kept it from being built, then: " if build["reason"] else ""
        return cause + _install_again()
    if build["code"] == "cpu":
        return f"put nvcc on PATH, then: {_install_again('YFK_BUILD=cuda')}"
    if why_not_native.startswith(NO_DEVICE):  # where torch finds one
        again = _install_again("YFK_BUILD=cuda")
        return f"update the driver, or put CUDA {torch.version.cuda}'s nvcc on PATH, then: {again}"
    capabilities = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
    archs = ",".join(sorted({f"{major}{minor}" for major, minor in capabilities}))
    return _install_again(f"YFK_BUILD=cuda YFK_CUDA_ARCHS={archs}")


def _install_again(variables: str = "") -> str:
    """The command that compiles this installation anew from where it came."""
    variables += " " * bool(variables)
    root = Path(__file__).resolve().parents[1]
    if (root / "csrc").is_dir():
        return f"cd {quote(str(root))} && {variables}python setup.py build_ext --inplace"
    try:
        origin = json.loads(distribution("yfkernels").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    pip = f"{variables}pip install --force-reinstall --no-deps"
    if "dir_info" in origin:
        return f"{pip} {quote(url2pathname(urlsplit(origin['url']).path))}"
    if origin:  # a wheel
        return f"{pip} .  (in a checkout)"
    return f"{pip} --no-cache-dir --no-binary yfkernels yfkernels=={__version__}"


def _describe(build: Build) -> str:
    reason = f": {build['reason']}" if build["reason"] else ""
    if build["code"] == "none":
        return f"pure Python{reason}"
    if build["code"] == "cpu":
        return f"{build['compiler']}, without CUDA{reason}"
    text = f"{build['compiler']}, CUDA {build['cuda_version']} for {build['cuda_archs']}"
    return text + (f" ({build['cuda_archs_from']})" if build["cuda_archs_from"] else "")
