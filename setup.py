"""Builds ``yfkernels._C`` with CMake and Ninja, or installs without it and records why.

Environment variables:
    YFK_BUILD: ``auto`` (default) builds CUDA and CPU code where nvcc is found, else CPU code, else
        installs pure Python. ``cuda`` and ``cpu`` build exactly that or fail; ``none`` compiles
        nothing.
    YFK_CUDA_ARCHS: GPU architectures, ``90`` or ``8.0;9.0+PTX``. Else ``TORCH_CUDA_ARCH_LIST``,
        else the GPUs that nvidia-smi sees, else code for all from Ampere on (PORTABLE).
    YFK_SANITIZE: for tests, sanitizers of the CPU code, ``address``. Such a module is loaded only
        with the sanitizer's library before it: build it elsewhere, with ``build_ext --build-lib``.
    CMAKE_BUILD_PARALLEL_LEVEL: compilers at a time; default: as many as there are processors.

A build in place (``build_ext --inplace``, ``make``) keeps line numbers of GPU code for profilers.

pip shows the progress of a build only with ``-v``; `yfkernels.show_config()` says what was built.

torch is not imported: the module includes none of its headers, so any torch release can load it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, SetupError

ROOT = Path(__file__).resolve().parent
BUILD_DIR = ROOT / "build" / str(sys.implementation.cache_tag)
MODULE = "yfkernels._C"

# What each value of YFK_BUILD tries, in order.
ATTEMPTS = {"auto": ("cuda", "cpu"), "cuda": ("cuda",), "cpu": ("cpu",), "none": ()}


class Target(NamedTuple):
    """What nvcc compiles: PTX once for each `ptx`, then from it machine code or PTX to keep.

    Attributes:
        ptx: ``80`` for compute_80.
        code: ``sm_90`` for machine code, ``compute_80`` for the PTX itself.
    """

    ptx: str
    code: str

    def flag(self) -> str:
        return f"--generate-code=arch=compute_{self.ptx},code={self.code}"


# Without a GPU to ask: machine code for each generation from Ampere on, where the later models of a
# generation (sm_86, sm_89, sm_103, sm_121) run that of the first, and PTX for GPUs to come. Writing
# PTX is four fifths of nvcc's time, so Ampere's serves its successors too: no kernel uses what only
# they have. Turing has no bfloat16 instructions and would need its own, for as long again.
PORTABLE = (
    *(Target("80", f"sm_{arch}") for arch in (80, 90, 100, 120)),
    Target("80", "compute_80"),
)


# Of one nvcc, which compiles for several architectures; Ninja runs as many nvcc as there are cores.
NVCC_THREADS = 4


class BuildError(Exception):
    """One attempt to compile failed; the message is its reason in one line."""


def requested_build() -> str:
    """Returns the value of YFK_BUILD, checked."""
    value = os.environ.get("YFK_BUILD") or "auto"
    if value not in ATTEMPTS:
        raise SetupError(f"YFK_BUILD={value!r} is unknown; use one of {', '.join(ATTEMPTS)}")
    return value


def parse_archs(text: str, variable: str) -> list[Target]:
    """Reads a list of architectures such as ``8.0;9.0+PTX`` or ``80 90+PTX``."""
    targets: list[Target] = []
    for item in re.split(r"[;,\s]+", text.strip()):
        match = re.fullmatch(r"(\d{1,2})\.?(\d[af]?)(\+PTX)?", item, re.IGNORECASE)
        if match is None:
            raise SetupError(
                f"{variable}={text!r}: {item!r} is no GPU architecture; write it like 90 or 9.0+PTX"
            )
        number = match[1] + match[2].lower()
        targets.append(Target(number, f"sm_{number}"))
        if match[3]:
            targets.append(Target(number, f"compute_{number}"))
    return targets


def targets_for(visible: Sequence[int], known: Sequence[int]) -> list[Target]:
    """Returns what an nvcc that knows the architectures `known` should compile for these GPUs."""
    if not visible:
        return [target for target in PORTABLE if int(target.code.partition("_")[2]) in known]
    targets: list[Target] = []
    for arch in sorted(set(visible)):
        older = [k for k in known if k <= arch]
        if not older:
            raise BuildError(f"with this nvcc there is no code for the visible GPU (sm_{arch})")
        # A GPU newer than nvcc runs the newest PTX that nvcc can write.
        newest = max(older)
        code = f"sm_{arch}" if arch == newest else f"compute_{newest}"
        targets.append(Target(str(newest), code))
    return targets


def oldest_arch(cuda: tuple[int, int]) -> int:
    """Returns the oldest architecture that csrc/cuda compiles for with this release of CUDA.

    Kernel arguments in constant memory need 70. Before 12.2 the headers have no conversions of
    bfloat16 for what is older than 80.
    """
    return 70 if cuda >= (12, 2) else 80


def cuda_targets(nvcc: str) -> tuple[list[Target], str]:
    """Returns what to compile, from the first source that says, and which source that is."""
    if text := os.environ.get("YFK_CUDA_ARCHS", "").strip():
        return parse_archs(text, "YFK_CUDA_ARCHS"), "named by YFK_CUDA_ARCHS"
    release = re.search(r"release (\d+)\.(\d+)", _ask(nvcc, "--version"))
    oldest = oldest_arch((int(release[1]), int(release[2])) if release else (12, 2))
    listed = re.findall(r"compute_(\d+)", _ask(nvcc, "--list-gpu-arch"))
    known = [int(number) for number in listed if int(number) >= oldest]
    if text := os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip():
        named = parse_archs(text, "TORCH_CUDA_ARCH_LIST")
        # written for torch, which may support more, and perhaps for another nvcc
        if targets := [t for t in named if not known or int(t.ptx.rstrip("af")) in known]:
            return targets, "named by TORCH_CUDA_ARCH_LIST"
    if not known:
        raise BuildError(f"{nvcc} --list-gpu-arch names no architecture from sm_{oldest} on")
    capabilities = _ask("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    visible = [int(a + b) for a, b in re.findall(r"^(\d+)\.(\d)\s*$", capabilities, re.MULTILINE)]
    source = "the visible GPUs" if visible else "no GPU was visible, so for all of them"
    return targets_for(visible, known), source


def _ask(*command: str) -> str:
    """Returns what a command prints, or nothing where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def find_tool(name: str) -> str:
    """Finds a program beside this interpreter (pip's cmake and ninja) or on PATH."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    if found := shutil.which(name, path=path):
        return found
    raise BuildError(f"{name} was not found; install it (pip install {name})")


def find_nvcc() -> str | None:
    """Finds nvcc through CUDACXX, CUDA_HOME, CUDA_PATH, PATH or the usual place."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [os.environ.get("CUDACXX", ""), *(f"{home}/bin/nvcc" for home in homes)]
    candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, candidates)), None)


def first_error(log: str) -> str:
    """Returns the part of a build's output that says best why it failed, in one line."""
    if "No CMAKE_CXX_COMPILER could be found" in log:
        return "no C++ compiler was found; install g++ or clang++, or set CXX"
    if message := re.search(r"^CMake Error.*:\n((?:  .*\n|\n)+)", log, re.MULTILINE):
        return " ".join(message[1].split()).removesuffix(".")
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(error|fatal)\b", line, re.IGNORECASE)]
    return [*errors, *lines[-1:], "the build failed and printed nothing"][0]


def run(command: Sequence[str]) -> None:
    """Runs one build command, passing its output on as it comes."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        log = []
        for line in process.stdout:
            print(line, end="", flush=True)
            log.append(line)
    if process.returncode:
        raise BuildError(first_error("".join(log)))


class Compiled(NamedTuple):
    """The module inside the build folder, and what decided the GPU architectures in it."""

    path: Path
    archs_from: str


def compile_module(kind: str, developer: bool) -> Compiled:
    """Configures and compiles the module.

    Args:
        kind: ``cuda`` for CPU and CUDA code, ``cpu`` for CPU code.
        developer: whether to keep what profilers want: line numbers of GPU code, symbols.

    Raises:
        BuildError: a tool is missing, or the compiler refused.
    """
    try:
        import pybind11
    except ImportError:
        raise BuildError("pybind11 was not found; install it (pip install pybind11)") from None
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": ninja,
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "YFK_CUDA": "OFF",
        "YFK_DEVELOPER": "ON" if developer else "OFF",
    }
    jobs = int(os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or os.cpu_count() or 1)
    archs_from = ""
    contents = "CPU code"
    nvcc = find_nvcc()
    if kind == "cuda":
        if nvcc is None:
            raise BuildError("nvcc was not found; put it on PATH or set CUDA_HOME")
        options["YFK_CUDA"] = "ON"
        options["CMAKE_CUDA_COMPILER"] = nvcc
        targets, archs_from = cuda_targets(nvcc)
        options["YFK_CUDA_TARGETS"] = ";".join(target.flag() for target in targets)
        options["YFK_NVCC_THREADS"] = str(min(jobs, NVCC_THREADS))
        archs = " ".join(target.code for target in targets)
        contents += f" and CUDA code for {archs} ({archs_from})"
    folder = BUILD_DIR
    if sanitizers := os.environ.get("YFK_SANITIZE"):
        options["YFK_SANITIZE"] = sanitizers
        folder = BUILD_DIR.with_name(f"{BUILD_DIR.name}-{sanitizers.replace(',', '-')}")
    _prepare_build_dir(folder, nvcc)
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    print(f"yfkernels: compiling {contents}, {jobs} at a time", flush=True)
    run([cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *definitions])
    run([cmake, "--build", str(folder)])
    return Compiled(folder / "_C.so", archs_from)


def _prepare_build_dir(folder: Path, nvcc: str | None) -> None:
    """Empties the build folder if it was made for another tree or with other compilers.

    CMake reads these once: on a change it refuses, goes on with the old, or forgets its options.
    """
    variables = ("CXX", "CXXFLAGS", "CUDAFLAGS", "CUDAHOSTCXX", "LDFLAGS")
    origin = {"source": str(ROOT), "nvcc": nvcc} | {v: os.environ.get(v) for v in variables}
    record = folder / "origin.json"
    if record.exists() and json.loads(record.read_text()) == origin:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record.write_text(json.dumps(origin))


class BuildModule(build_ext):
    """Compiles what YFK_BUILD asks for and leaves ``_build.json`` beside the module."""

    def run(self) -> None:
        request = requested_build()
        module = Path(self.get_ext_fullpath(MODULE)).resolve()
        module.parent.mkdir(parents=True, exist_ok=True)
        built, archs_from = "none", ""
        reasons = [f"YFK_BUILD={request}"] if request in ("cpu", "none") else []
        for kind in ATTEMPTS[request]:
            try:
                compiled = compile_module(kind, developer=bool(self.inplace))
            except BuildError as error:
                if request != "auto":
                    raise CompileError(f"YFK_BUILD={request}: {error}") from None
                self.warn(f"yfkernels builds without its {kind} code: {error}")
                reasons.append(str(error))
            else:
                built, archs_from = kind, compiled.archs_from
                _replace(module, compiled.path.read_bytes())
                break
        if built == "none":
            module.unlink(missing_ok=True)  # an earlier build's
        reason = "; ".join(dict.fromkeys(reasons))
        record = {"code": built, "reason": reason, "archs_from": archs_from}
        _replace(module.parent / "_build.json", json.dumps(record, indent=2).encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    """Writes a file in one move: a process that has the old module loaded keeps it whole."""
    if path.exists() and path.read_bytes() == content:
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)


class Wheel(bdist_wheel):
    """Marks the wheel of YFK_BUILD=none as one that fits any platform."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if requested_build() == "none":
            self.root_is_pure = True


if __name__ == "__main__":
    setup(
        ext_modules=[Extension(MODULE, sources=[])],
        cmdclass={"build_ext": BuildModule, "bdist_wheel": Wheel},
    )
