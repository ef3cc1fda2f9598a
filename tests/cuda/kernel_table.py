"""The page docs/how-it-works/kernels.md: what every GPU kernel needs and moves, release by release.

Usage: python tests/cuda/kernel_table.py [--write]

Prints the page, or writes it. Needs nvcc, nvdisasm and Triton, and no GPU.
"""

from __future__ import annotations

import difflib
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import from_nvcc
import from_triton
from kernel import Kernel
from sass import Code, find_tool

PAGE = Path(__file__).resolve().parents[2] / "docs/how-it-works/kernels.md"
COMMAND = "python tests/cuda/kernel_table.py --write"

_INTRODUCTION = f"""\
# GPU kernels

What the compilers make of every GPU kernel. Nothing here is a measurement, and no GPU is needed:

    {COMMAND}

writes this page, and the tests in `tests/cuda` fail if it is out of date.

- **kernel**: its name, the type of gradients and parameters, what it sums or by which rule it
  updates; half-precision parameters have a float32 master or are rounded stochastically.
- **threads**: of a block. **registers**: of a thread. **spilled**: bytes of stack and of registers
  moved there and back. **shared**: bytes of a block.
- **resident**: threads that a multiprocessor holds at once, of 2048, by registers, shared memory
  and block size (limits: CUDA C++ Programming Guide, "Technical Specifications per Compute
  Capability").
- **read**, **written**: bytes of global memory an element costs, counted from the machine code of
  the loop that runs where all columns lie on 16 bytes. **access**: bytes of its loads and stores;
  **loads**: of one thread in one round of that loop.
"""
_COLUMNS = ["kernel", "sm", "threads", "registers", "spilled", "shared", "resident"]
_COLUMNS += ["read", "written", "access", "loads"]


def _cells(kernel: Kernel, variant: str | None) -> list[str]:
    arguments = " ".join(filter(None, [kernel.dtype, variant]))
    needs = [kernel.block, kernel.registers, kernel.spilled, kernel.shared, kernel.resident]
    cells = [f"{kernel.function} {arguments}".strip(), *map(str, [kernel.arch, *needs])]
    if variant is None or not kernel.elementwise:
        return cells + [""] * 4
    traffic, loop = kernel.traffic(variant), kernel.wide_loops()[variant]
    return [*cells, f"{traffic.read:g}", f"{traffic.written:g}", *_accesses(loop)]


def _accesses(loop: Code) -> tuple[str, str]:
    widths = sorted({*loop.loads, *loop.stores})
    return ", ".join(map(str, widths)), str(loop.loads.total())


def section(compiler: str, kernels: Sequence[Kernel]) -> str:
    """The part of the page on one compiler's kernels, under a heading that names its version."""
    rows = [(kernel, variant) for kernel in kernels for variant in kernel.variants or (None,)]
    rows.sort(key=lambda row: _order(*row))
    cells = [_COLUMNS, *(_cells(kernel, variant) for kernel, variant in rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|---" + "|--:" * (len(_COLUMNS) - 1) + "|")
    return "\n".join([f"## {compiler}", "", *lines, ""])


def _order(kernel: Kernel, variant: str | None) -> tuple[str, bool, str, str, int]:
    dtype = kernel.dtype or ""
    return kernel.function, dtype != "float32", dtype, variant or "", kernel.arch


def committed(page: str, name: str) -> tuple[str, str]:
    """The compiler and its section of a page, by the compiler's name."""
    found = re.search(rf"^## ({name} .*)\n(?:(?!## ).*\n)*", page, re.MULTILINE)
    if found is None:
        return "", ""
    return found[1], found[0].rstrip("\n") + "\n"


def rows_for(archs: Sequence[int], section: str) -> str:
    """A section without the rows of other architectures."""
    lines = section.splitlines(keepends=True)
    return "".join(
        line for line in lines if (arch := _arch_of(line)) is None or int(arch[1]) in archs
    )


def _arch_of(line: str) -> re.Match[str] | None:
    return re.match(r"\| [^|]+ \| (\d+) \|", line)


def difference(before: str, now: str) -> str:
    """How two sections differ, and what to do about it; empty if they do not."""
    if before == now:
        return ""
    lines = difflib.unified_diff(
        before.splitlines(), now.splitlines(), PAGE.name, "compiled now", "", "", 0, ""
    )
    return "\n".join([*lines, f"If that is meant, run `{COMMAND}` and commit the page."])


def cuda_section(nvcc: str, kernels: Sequence[Kernel]) -> str:
    return section(f"nvcc {from_nvcc.version(nvcc)}", kernels)


def triton_section(kernels: Sequence[Kernel]) -> str:
    return section(f"Triton {from_triton.version()}", kernels)


def main() -> None:
    nvcc, nvdisasm = shutil.which("nvcc"), find_tool("nvdisasm")
    if nvcc is None or nvdisasm is None:
        sys.exit("kernel_table.py: put nvcc and nvdisasm on PATH, or install Triton for nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        cuda = cuda_section(nvcc, from_nvcc.compile_all(nvcc, nvdisasm, Path(folder)))
        triton = triton_section(from_triton.compile_all(nvdisasm, Path(folder)))
    page = "\n".join([_INTRODUCTION, cuda, triton])
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page)
    else:
        print(page, end="")


if __name__ == "__main__":
    main()
