"""What the numbers depend on besides the code: commit, machine, versions, threads."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import yfkernels
from yfkernels.ops import backends as ops

_DRIVER_QUERY = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def describe(
    device: torch.device, backend: str, absent: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Describe this run for the results file.

    Args:
        device: where the race is run.
        backend: the backend that was asked for.
        absent: contestants that cannot take part on this machine, and why.
    """
    facts: dict[str, object] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "yfkernels": yfkernels.__version__,
        "backend": ops.choose(backend, device, torch.float32, True).name,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": gpu.name,
            "gpu_memory_bytes": gpu.total_memory,
            "gpu_l2_bytes": gpu.L2_cache_size,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "cuda": torch.version.cuda,
            "driver": _first_line(*_DRIVER_QUERY),
        }
    if absent:
        facts["left out"] = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
    return facts


def commit() -> str | None:
    """The commit of the checkout, marked if the working tree differs from it."""
    head = _first_line("git", "rev-parse", "HEAD")
    changed = _first_line("git", "status", "--porcelain", "--untracked-files=no")
    return f"{head} and changes" if head and changed else head


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _first_line(*command: str) -> str | None:
    """The first line a command prints, or None if it cannot be had."""
    try:
        output = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return next(iter(output.splitlines()), None)
