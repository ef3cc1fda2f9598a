"""What nvcc makes of the CUDA sources, read without a GPU: ptxas' report and the PTX itself."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
ARCHS = (80, 90, 100)

_DTYPES = {"f": "float32", "13__nv_bfloat16": "bfloat16", "6__half": "float16"}
_KERNEL = re.compile(
    r"\d((?:yellowfin|write)_[a-z_]+_kernel)(?:I(f|13__nv_bfloat16|6__half)?(?:Lb([01])E)?E)?"
)
_JUMP = re.compile(r"\bbra\b.*?(\$\w+);")
_SPILLS = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
_REPORT = re.compile(
    rf"Compiling entry function '(\w+)' for 'sm_(\d+)'\n.*\n\s+{_SPILLS}\n.*Used (\d+) registers"
)


@dataclass(frozen=True)
class KernelName:
    """A kernel and its template arguments, taken from the mangled name."""

    function: str
    dtype: str | None
    flag: bool | None

    @classmethod
    def parse(cls, mangled: str) -> KernelName:
        match = _KERNEL.search(mangled)
        assert match, f"{mangled}: tests/cuda/ahead.py cannot read this kernel's name"
        function, dtype, flag = match.groups()
        return cls(function, _DTYPES.get(dtype), None if flag is None else flag == "1")

    def __str__(self) -> str:
        arguments = [str(a) for a in (self.dtype, self.flag) if a is not None]
        return f"{self.function}<{', '.join(arguments)}>" if arguments else self.function


@dataclass(frozen=True)
class Resources:
    """ptxas' account of one kernel on one architecture, in registers and bytes."""

    kernel: KernelName
    arch: int
    stack: int
    spill_stores: int
    spill_loads: int
    registers: int


@dataclass(frozen=True)
class Loop:
    """The PTX of a loop that holds no other loop."""

    text: str

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.text))

    @property
    def wide_loads(self) -> int:
        return self.count(r"\bld\.global(\.\w+)*\.v4\.[fbu]32")

    @property
    def wide_stores(self) -> int:
        return self.count(r"\bst\.global(\.\w+)*\.v4\.[fbu]32")

    @property
    def narrow(self) -> int:
        """Global loads and stores of one element."""
        return self.count(r"\b(ld|st)\.global") - self.wide_loads - self.wide_stores


@dataclass(frozen=True)
class Code:
    """The PTX of one kernel."""

    kernel: KernelName
    text: str

    def element_loops(self) -> list[Loop]:
        """The innermost loops that touch global memory: those that run over a chunk's elements."""
        lines = self.text.splitlines()
        labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\$\w+):", line))}
        jumps = [(m[1], i) for i, line in enumerate(lines) if (m := _JUMP.search(line))]
        spans = [(labels[label], i) for label, i in jumps if labels[label] < i]
        innermost = [
            span
            for span in spans
            if not any(s != span and span[0] <= s[0] and s[1] <= span[1] for s in spans)
        ]
        loops = [Loop("\n".join(lines[first:last])) for first, last in innermost]
        return [loop for loop in loops if loop.count(r"\b(ld|st)\.global")]


@dataclass(frozen=True)
class Compiled:
    """Every kernel of every source."""

    archs: tuple[int, ...]
    resources: list[Resources]
    code: list[Code]

    def of(self, function: str) -> list[Code]:
        found = [code for code in self.code if code.kernel.function == function]
        assert found, f"no kernel {function} in {[str(code.kernel) for code in self.code]}"
        return found


def source_flags(source: Path) -> list[str]:
    """The flags that CMakeLists.txt gives to one source beyond those of all."""
    text = (ROOT / "CMakeLists.txt").read_text()
    place = rf"set_source_files_properties\(csrc/cuda/{source.name} PROPERTIES COMPILE_OPTIONS"
    match = re.search(rf"{place} ([^)]*)\)", text)
    return match[1].split() if match else []


def _compile(nvcc: str, source: Path, archs: Sequence[int], folder: Path) -> tuple[str, str]:
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    command = [nvcc, "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", *targets]
    command += [*source_flags(source), "--keep", "--keep-dir", str(folder)]
    command += ["-fatbin", "-o", str(folder / f"{source.stem}.fatbin"), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"
    assert "warning" not in result.stderr, result.stderr
    return result.stderr, (folder / f"{source.stem}.compute_90.ptx").read_text()


def compile_all(nvcc: str, folder: Path) -> Compiled:
    """Compiles every source for those of ARCHS that nvcc knows, two at a time.

    A warning is an error. The PTX is that of sm_90.
    """
    listing = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    archs = tuple(arch for arch in ARCHS if f"compute_{arch}" in listing.stdout.split())
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda source: _compile(nvcc, source, archs, folder), SOURCES))
    resources = [
        Resources(KernelName.parse(name), int(arch), *map(int, numbers))
        for report, _ in outputs
        for name, arch, *numbers in _REPORT.findall(report)
    ]
    code = [
        Code(KernelName.parse(name), body)
        for _, ptx in outputs
        for name, body in re.findall(r"\.entry (\w+)\((.*?)\n}", ptx, re.DOTALL)
    ]
    return Compiled(archs, resources, code)
