"""The Triton kernels as they are compiled ahead of time; needs no GPU."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from kernel import ARCHS, Kernel
from sass import disassemble


def version() -> str:
    return version_of("triton")


def _read(nvdisasm: str, found: dict[str, Any], cubin: Path) -> Kernel:
    cubin.write_bytes(base64.b64decode(found["cubin"]))
    (code,) = disassemble(nvdisasm, cubin).values()
    resources = found["resources"]
    return Kernel(
        backend="Triton",
        function=found["function"],
        dtype=found["dtype"],
        variants=(found["variant"],) if found["variant"] else (),
        arch=found["arch"],
        registers=resources["REG"],
        spilled=resources["STACK"] + resources["LOCAL"],
        shared=found["shared"],
        ptx=found["ptx"],
        code=code,
    )


def environment() -> dict[str, str]:
    """Of a process in which Triton does not interpret, and may believe in another GPU."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = str(Path(__file__).resolve().parents[2])
    variables["PYTHONPATH"] = os.pathsep.join([root, *sys.path])
    return variables


def _compile(nvdisasm: str, arch: int, folder: Path, *which: str) -> list[Kernel]:
    command = [sys.executable, str(Path(__file__).with_name("triton_ahead.py"))]
    command += [str(arch), *which]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [
        _read(
            nvdisasm,
            json.loads(line),
            folder / "_".join(["triton", str(arch), *which, f"{place}.cubin"]),
        )
        for place, line in enumerate(done.stdout.splitlines())
    ]


def compile_all(
    nvdisasm: str, folder: Path, *which: str, archs: Sequence[int] = ARCHS
) -> list[Kernel]:
    """Every kernel for each of `archs`, two at a time; Triton caches them from run to run.

    which: "whole" for the updates of models whose chunks are not cut into pieces, instead.
    """
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda arch: _compile(nvdisasm, arch, folder, *which), archs)
        return [kernel for kernels in compiled for kernel in kernels]
