"""The CUDA kernels as nvcc compiles them; needs no GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kernel import ARCHS, TANGENTS, UPDATES, Kernel
from sass import disassemble, find_tool

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))

_DTYPES = {"f": "float32", "13__nv_bfloat16": "bfloat16", "6__half": "float16"}
# a kernel's name and its template arguments, mangled
_NAME = re.compile(r"\d([a-z][a-z_]*)_kernel(?:I(f|13__nv_bfloat16|6__half)?(\w*))?")
_VARIANTS = {
    "MeasureE0E": "norm",
    "MeasureE1E": "average",
    "MeasureE2E": "sketch",
    "6StoredE0E": "yellowfin_diagonal",  # these contain what others are called
    "6StoredE1E": "yellowfin_compact",
    "6StoredE2E": "yellowfin_float8",
    "InBytesINS_6QHAdamE": "qhadam_bytes",
    "InBytesINS_4LAMBE": "lamb_bytes",
    "YellowFinILb1ELb0E": "yellowfin",
    "YellowFinILb0ELb0E": "yellowfin_sketch",
    "YellowFinILb0ELb1E": "yellowfin_robust",
    "3QHME": "qhm",
    "6QHAdamE": "qhadam",
    "4LAMBE": "lamb",
    "PlainTangents": "plain",
    "MomentumTangents": "momentum",
    "AdamTangents": "adam",
    "StoredProjection": "stored",
    "AdamProjection": "preconditioned",
    "Lb0E": "exact",
    "Lb1E": "sketch",
    "Li480E": "few",
    "Li4000E": "many",
}
_PTX = re.compile(r"\.entry (\w+)\((.*?)\n}", re.DOTALL)
_SPILLS = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
_REPORT = re.compile(
    rf"Compiling entry function '(\w+)' for 'sm_(\d+)'\n.*\n\s+{_SPILLS}\n"
    r".*Used (\d+) registers(?:.*?(\d+) bytes smem)?"
)


def version(nvcc: str) -> str:
    listing = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\bV(\d[\d.]*)", listing.stdout)
    assert found, listing.stdout
    return found[1]


def known_archs(nvcc: str) -> tuple[int, ...]:
    """Those of ARCHS that nvcc compiles for."""
    listing = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    return tuple(arch for arch in ARCHS if f"compute_{arch}" in listing.stdout.split())


def source_flags(source: Path) -> list[str]:
    """The flags that a source asks for beyond those of all, as CMakeLists.txt reads them."""
    marked = re.findall(r"^// compile with: (.*)$", source.read_text(), re.M)
    return str(marked[0]).split() if marked else []


def _variants(function: str, dtype: str | None, arguments: str) -> tuple[str, ...]:
    """What a kernel serves; for half parameters, those with a master and those without."""
    if function == "average":
        name = "float32" if arguments.startswith("f") else "bfloat16"
        return (name,) if dtype == "float32" else (f"{name} master", f"{name} rounded")
    name = next((name for part, name in _VARIANTS.items() if part in arguments), None)
    if name is None:
        return ()
    if function == "apply":
        name = name.removesuffix("_sketch")  # serves both variances
    if function in UPDATES and dtype != "float32":
        return f"{name} master", f"{name} rounded"
    return (name,)


def _only(folder: Path, pattern: str) -> Path:
    """The file that nvcc has kept under that name, whatever stands in front of the suffix."""
    found = list(folder.glob(pattern))
    assert len(found) == 1, f"{folder}: {pattern} is {found}"
    return found[0]


def compile_source(nvcc: str, nvdisasm: str, source: Path, folder: Path) -> list[Kernel]:
    """Every kernel of a source on every architecture. A warning is an error.

    From the PTX of the oldest, as setup.py builds where no GPU is visible: to write PTX is most of
    nvcc's work, and no source asks what it is compiled for (test_static.py).
    """
    archs = known_archs(nvcc)
    targets = [f"-gencode=arch=compute_{archs[0]},code=sm_{arch}" for arch in archs]
    command = [nvcc, "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", *targets]
    command += [*source_flags(source), "--keep", "--keep-dir", str(folder)]
    command += ["-fatbin", "-o", str(folder / f"{source.stem}.fatbin"), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"
    assert "warning" not in result.stderr, result.stderr
    return list(_kernels(nvdisasm, source, archs, folder, result.stderr))


def built_objects() -> dict[Path, Path]:
    """The objects of each source in the build tree; none if one is missing or out of date."""
    tag = str(sys.implementation.cache_tag)
    folder = ROOT / "build" / tag / "CMakeFiles/kernels_cuda.dir"
    objects = {source: folder / f"csrc/cuda/{source.name}.o" for source in SOURCES}
    if not all(path.exists() for path in objects.values()):
        return {}
    read = (path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cuh", ".cu"))
    written = max(path.stat().st_mtime for path in read)
    oldest = min(path.stat().st_mtime for path in objects.values())
    return objects if written < oldest else {}


def take_apart(
    cuobjdump: str, nvdisasm: str, source: Path, built: Path, folder: Path
) -> list[Kernel] | None:
    """Every kernel of an object; None if it was not built for all architectures from one PTX."""
    own = folder / source.stem
    own.mkdir()
    for kind in ("elf", "ptx"):
        command = [cuobjdump, f"--extract-{kind}", "all", str(built)]
        subprocess.run(command, cwd=own, capture_output=True, check=True)
    names = {path.name for path in own.iterdir()}
    if len(list(own.glob("*.ptx"))) != 1 or {f"{source.stem}.sm_{a}.cubin" for a in ARCHS} - names:
        return None
    report = built.parents[4] / "ptxas" / f"{source.name}.txt"
    said = report.read_text()
    assert "warning" not in said, said
    return list(_kernels(nvdisasm, source, ARCHS, own, said))


def _kernels(
    nvdisasm: str, source: Path, archs: Sequence[int], folder: Path, report: str
) -> Iterator[Kernel]:
    figures = {(name, int(arch)): numbers for name, arch, *numbers in _REPORT.findall(report)}
    ptx = dict(_PTX.findall(_only(folder, f"{source.stem}.*ptx").read_text()))
    for arch in archs:
        code = disassemble(nvdisasm, _only(folder, f"{source.stem}.*_{arch}.cubin"))
        assert ptx.keys() == code.keys() == {name for name, a in figures if a == arch}, source
        for mangled, body in ptx.items():
            name = _NAME.search(mangled)
            assert name, f"{mangled}: tests/cuda/from_nvcc.py cannot read this kernel's name"
            function = name[1]
            dtype = "float32" if function in TANGENTS else _DTYPES.get(name[2])
            *spilled, registers, shared = (int(n or 0) for n in figures[mangled, arch])
            yield Kernel(
                backend="CUDA",
                function=function,
                dtype=dtype,
                variants=_variants(function, dtype, name[3] or ""),
                arch=arch,
                registers=registers,
                spilled=sum(spilled),
                shared=shared,
                ptx=body,
                code=code[mangled],
            )


def compile_all(nvcc: str, nvdisasm: str, folder: Path) -> list[Kernel]:
    """Every kernel of the package: as the extension was built, or compiled, two at a time."""
    cuobjdump = find_tool("cuobjdump")
    if cuobjdump is not None and (objects := built_objects()):
        parts = [take_apart(cuobjdump, nvdisasm, s, path, folder) for s, path in objects.items()]
        if all(part is not None for part in parts):
            return [kernel for part in parts if part is not None for kernel in part]
    kernels = {source: source.read_text().count("_pass<") for source in SOURCES}
    slowest_first = sorted(SOURCES, key=lambda s: (-kernels[s], -s.stat().st_size))
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(
            lambda source: compile_source(nvcc, nvdisasm, source, folder), slowest_first
        )
        return [kernel for kernels in compiled for kernel in kernels]
