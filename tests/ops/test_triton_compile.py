"""What the Triton kernels become on GPUs, read from PTX and machine code; needs no GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

ARCHITECTURES = (80, 90, 100)
ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2}
VARIANCES = ("exact", "sketch")
ELEMENTWISE = [f"{p}-{v}-{d}" for p in ("measure", "apply") for v in VARIANCES for d in ITEMSIZE]
TUNE = ["tune-exact", "tune-linear", "tune-sketch"]
THREADS = 256
REGISTERS = 65536  # of a multiprocessor, on each of these architectures


@dataclass(frozen=True)
class Compiled:
    """A kernel as triton_ahead.py prints it."""

    name: str
    architecture: int
    ptx: str
    resources: dict[str, int]

    def blocks(self) -> list[list[str]]:
        """Opcodes by basic block: what lies between the targets of jumps."""
        body = self.ptx[self.ptx.index("\n{") :]
        opcode = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z]\w*(?:[.:]+\w+)+)\s", re.M)
        return [opcode.findall(block) for block in re.split(r"^\$L__BB\w+:", body, flags=re.M)]

    def tile_loops(self) -> list[list[str]]:
        """The blocks that load elements of tensors; everything in the table is 64 bits."""
        return [
            block
            for block in self.blocks()
            if any(op.startswith("ld.global") and not op.endswith("b64") for op in block)
        ]


@pytest.fixture(scope="module")
def compiled() -> dict[tuple[str, int], Compiled]:
    """Every kernel for every architecture; Triton caches them from run to run."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    script = Path(__file__).with_name("triton_ahead.py")
    command = [sys.executable, str(script), *map(str, ARCHITECTURES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels = [Compiled(**json.loads(line)) for line in done.stdout.splitlines()]
    return {(kernel.name, kernel.architecture): kernel for kernel in kernels}


@pytest.fixture(params=ARCHITECTURES, ids=lambda architecture: f"sm_{architecture}")
def architecture(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def expected_accesses(name: str) -> tuple[int, int]:
    """16-byte loads and stores of a thread for one tile."""
    kind, variance, dtype = name.split("-")
    half = ITEMSIZE[dtype] == 2
    average = [4] if variance == "exact" else []
    if kind == "measure":
        tile, read, written = 4096, [ITEMSIZE[dtype], *average], []
    else:
        written = [ITEMSIZE[dtype], 4, *average] + [4] * half  # parameter, momentum, master
        tile, read = 2048, [ITEMSIZE[dtype], *written]
    elements = tile // THREADS
    return elements * sum(read) // 16, elements * sum(written) // 16


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_access_to_a_whole_tile_is_16_bytes(
    name: str, architecture: int, compiled: dict[tuple[str, int], Compiled]
) -> None:
    whole, ragged = compiled[name, architecture].tile_loops()
    loads, stores = expected_accesses(name)
    accesses = Counter(op for op in whole if ".global" in op)
    assert accesses == Counter({"ld.global.v4.b32": loads, "st.global.v4.b32": stores})
    # the end of a tensor goes element by element; it shows that the whole tiles were looked at
    assert not any(".global.v" in op for op in ragged)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_no_double_precision_for_each_element(
    name: str, architecture: int, compiled: dict[tuple[str, int], Compiled]
) -> None:
    kernel = compiled[name, architecture]
    for block in kernel.tile_loops():
        assert not [op for op in block if "f64" in op]
        assert [op for op in block if "f32" in op]
    # sums are carried on, and coefficients read, in float64: once a chunk
    assert [op for block in kernel.blocks() for op in block if "f64" in op]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_no_division_for_each_element(
    name: str, architecture: int, compiled: dict[tuple[str, int], Compiled]
) -> None:
    for block in compiled[name, architecture].tile_loops():
        assert not [op for op in block if op.startswith(("div", "rcp", "rem"))]


@pytest.mark.parametrize("name", ELEMENTWISE + TUNE)
def test_no_spills(name: str, architecture: int, compiled: dict[tuple[str, int], Compiled]) -> None:
    resources = compiled[name, architecture].resources
    assert (resources["STACK"], resources["LOCAL"]) == (0, 0)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_enough_programs_fit_on_a_multiprocessor(
    name: str, architecture: int, compiled: dict[tuple[str, int], Compiled]
) -> None:
    registers = compiled[name, architecture].resources["REG"]
    fit = REGISTERS // (-(-registers // 8) * 8 * THREADS)
    assert fit >= (2 if name.startswith("measure") else 3)  # measure has two slots for each


@pytest.mark.parametrize("name", TUNE)
def test_the_tuner_rounds_as_the_host_does(
    name: str, architecture: int, compiled: dict[tuple[str, int], Compiled]
) -> None:
    """IEEE division and root everywhere; fused products in ln and exp only."""
    arithmetic = re.compile(r"(div|sqrt|rcp|fma|add|sub|mul)\b.*\.f64")
    seen = [op for block in compiled[name, architecture].blocks() for op in block]
    loose = [op for op in seen if arithmetic.match(op) and ".rn" not in op]
    fused = [op for op in seen if re.match(r"fma\b.*\.f64", op)]
    assert [op for op in seen if re.match(r"(div|sqrt)\.rn\.f64", op)]
    if name == "tune-linear":
        assert not loose
        assert not fused
    else:
        assert set(loose) <= {"rcp.approx.ftz.f64"}  # inside ln
