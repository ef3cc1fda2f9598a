"""What was built, which devices this machine has, and which backend runs on each of them."""

from __future__ import annotations

from typing import TypedDict

import torch

from yfkernels._version import __version__
from yfkernels.ops.backends import archs_from, backend_status, build_info, left_out, preferred

DEVICE_TYPES = ("cpu", "cuda")


class Build(TypedDict):
    """How the compiled module was built.

    Attributes:
        code: "cuda" (CPU and CUDA code), "cpu", or "none" (pure Python).
        reason: why something was left out; empty if everything was built.
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
    """

    backend: str | None
    unusable: dict[str, str]


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
    devices = _devices()
    return Config(
        version=__version__,
        torch=torch.__version__,
        build=_build(),
        devices=devices,
        services={kind: _service(kind, devices) for kind in DEVICE_TYPES},
    )


def show_config() -> None:
    """Prints version, build and devices, and the backend of each kind of device.

    Where a backend cannot be used, the reason follows. `yfkernels config` prints the same.

    Example:
        >>> yfkernels.show_config()  # doctest: +ELLIPSIS
        yfkernels  ...
    """
    found = config()
    build = found["build"]
    print(f"yfkernels  {found['version']}")
    print(f"torch      {found['torch']}")
    print(f"build      {_describe(build)}")
    if build["reason"]:
        print(f"           {build['reason']}")
    print("devices    " + "\n           ".join(f"{k}: {v}" for k, v in found["devices"].items()))
    for kind, service in found["services"].items():
        print(f"{kind:10} {service['backend'] or 'not served'}")
        for name, reason in service["unusable"].items():
            print(f"           not {name}: {reason}")


def _build() -> Build:
    info = build_info() or {}
    cuda_version = info.get("cuda_version", "")
    return Build(
        code="cuda" if cuda_version else "cpu" if info else "none",
        reason=left_out() or ("" if info else "run `python setup.py build_ext --inplace`"),
        compiler=info.get("compiler", ""),
        cuda_version=cuda_version,
        cuda_archs=info.get("cuda_archs", ""),
        cuda_archs_from=archs_from() if cuda_version else "",
        instruction_set=info.get("instruction_set", ""),
        threads=info.get("threads", ""),
    )


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        devices[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"
    return devices


def _service(kind: str, devices: dict[str, str]) -> Service:
    visible = any(torch.device(name).type == kind for name in devices)
    return Service(
        backend=preferred(kind).name if visible else None,
        unusable={name: why for name, why in backend_status(kind).items() if why is not None},
    )


def _describe(build: Build) -> str:
    if build["code"] == "none":
        return "pure Python"
    text = f"{build['compiler']}, {build['instruction_set']}, {build['threads']}"
    if build["code"] == "cuda":
        text += f"; CUDA {build['cuda_version']} for {build['cuda_archs']}"
        text += f" ({build['cuda_archs_from']})" if build["cuda_archs_from"] else ""
    return text
