"""Our count of resident threads against cuda_occupancy.h, which is NVIDIA's."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
from occupancy import LIMITS, resident_threads

SOURCE = Path(__file__).with_name("occupancy.cpp")
BLOCKS = (32, 96, 256, 480, 512, 1024)
REGISTERS = (10, 32, 33, 40, 64, 65, 80, 96, 128, 168, 255)
SHARED = (0, 64, 4352, 8192, 17248, 49152)


@pytest.mark.parametrize(
    ("block", "registers", "shared", "threads"),
    [
        (256, 64, 0, 1024),
        (256, 65, 0, 768),  # registers come 8 a thread: 72
        (512, 65, 0, 512),
        (256, 32, 0, 2048),
        (32, 16, 0, 1024),  # 32 blocks at most
        (256, 32, 100 * 1024, 256),
    ],
)
def test_known_kernels(block: int, registers: int, shared: int, threads: int) -> None:
    assert resident_threads(80, block, registers, shared) == threads


def test_agrees_with_cuda_occupancy_h(nvcc: str, tmp_path: Path) -> None:
    program = tmp_path / "occupancy"
    command = [nvcc, "-cudart", "none", "-o", str(program), str(SOURCE)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cuda_occupancy.h" in built.stderr:
        pytest.skip("this CUDA toolkit has no cuda_occupancy.h")
    assert built.returncode == 0, built.stderr
    cases = list(itertools.product(LIMITS, BLOCKS, REGISTERS, SHARED))
    lines = []
    for arch, *kernel in cases:
        limits = LIMITS[arch]
        device = (arch, limits.threads, limits.registers, limits.shared)
        lines.append(" ".join(map(str, [*device, "|", *kernel])))
    result = subprocess.run(
        [str(program)], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    theirs = [int(line) * case[1] for line, case in zip(result.stdout.split(), cases)]
    assert len(theirs) == len(cases)
    ours = [resident_threads(*case) for case in cases]
    differing = [(c, a, b) for c, a, b in zip(cases, ours, theirs) if a != b]
    assert differing == []
