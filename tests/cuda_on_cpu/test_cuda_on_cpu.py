"""The CUDA kernels run without a GPU: compiled as C++, the threads of a block being fibers.

The headers in include/ stand in for CUDA's; the kernels are compiled as they are. Blocks run one at
a time, so what needs two of them at once stays open: the order in which one sees another's writes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = [
    *sorted((CSRC / "cuda").glob("*.cu")),
    *sorted((CSRC / "cpu").glob("*.cpp")),
    *sorted(HERE.glob("*.cpp")),
]
FLAGS = [
    *("-std=c++17", "-O1", "-Wno-psabi", "-pthread"),
    "-ffp-contract=off",  # as the CPU driver is always built: both have to round alike
    "-fno-strict-aliasing",  # kernels read columns of floats as float4, which nvcc allows
    "-DYFK_ISA=baseline",
    *(f"-I{CSRC}", f"-I{HERE / 'include'}"),
]
TIMEOUT = 120  # seconds; a kernel that never ends is a failure


def _run(*command: str | Path) -> None:
    result = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    if result.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{result.stdout}", pytrace=False)


@pytest.fixture(scope="session")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of check.cpp."""
    name = os.environ.get("CXX") or "g++"
    compiler = shutil.which(name)
    if compiler is None:
        pytest.skip(f"no C++ compiler: {name} is not on PATH")
    folder = tmp_path_factory.mktemp("cuda_on_cpu")

    def compiled(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.name}.o"
        _run(compiler, *FLAGS, "-x", "c++", "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, SOURCES))
    program = folder / "check"
    _run(compiler, *FLAGS, *objects, "-o", program)
    return program


@pytest.mark.parametrize("subject", ["measure", "apply", "tune", "write_words"])
def test_kernels_do_what_the_cpu_driver_does(
    check: Path, subject: str, rng: np.random.Generator
) -> None:
    """In forward, reversed and random order of blocks and threads."""
    _run(check, subject, str(rng.integers(2**32)))
