"""Builds ``yfkernels._C`` with CMake and Ninja, or installs without it and records why.

Environment variables:
    YFK_BUILD: ``auto`` (default) builds CUDA and CPU code where nvcc is found, else CPU code, else
        installs pure Python. ``cuda`` and ``cpu`` build exactly that or fail; ``none`` compiles
        nothing.
    YFK_CUDA_ARCHS: GPU architectures, ``90`` or ``8.0;9.0+PTX``. Else ``TORCH_CUDA_ARCH_LIST``,
        else the GPUs that nvidia-smi sees, else every common one plus PTX for those to come.
    YFK_SANITIZE: for tests, sanitizers of the CPU code, ``address``. Such a module is loaded only
        with the sanitizer's library before it: build it elsewhere, with ``build_ext --build-lib``.

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

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, SetupError

ROOT = Path(__file__).resolve().parent
BUILD_DIR = ROOT / "build" / str(sys.implementation.cache_tag)
MODULE = "yfkernels._C"

# What each value of YFK_BUILD tries, in order.
ATTEMPTS = {"auto": ("cuda", "cpu"), "cuda": ("cuda",), "cpu": ("cpu",), "none": ()}
DEFAULT_ARCHS = (75, 80, 86, 89, 90, 100, 120)


class BuildError(Exception):
    """One attempt to compile failed; the message is its reason in one line."""


def requested_build() -> str:
    """Returns the value of YFK_BUILD, checked."""
    value = os.environ.get("YFK_BUILD") or "auto"
    if value not in ATTEMPTS:
        raise SetupError(f"YFK_BUILD={value!r} is unknown; use one of {', '.join(ATTEMPTS)}")
    return value


def parse_archs(text: str, variable: str) -> list[str]:
    """Turns ``8.0;9.0+PTX`` (or ``80 90+PTX``) into CMake's ``80-real 90-real 90-virtual``."""
    archs: list[str] = []
    for item in re.split(r"[;,\s]+", text.strip()):
        match = re.fullmatch(r"(\d{1,2})\.?(\d[af]?)(\+PTX)?", item, re.IGNORECASE)
        if match is None:
            raise SetupError(
                f"{variable}={text!r}: {item!r} is no GPU architecture; write it like 90 or 9.0+PTX"
            )
        number = match[1] + match[2].lower()
        archs.append(f"{number}-real")
        if match[3]:
            archs.append(f"{number}-virtual")
    return archs


def archs_for(visible: Sequence[int], known: Sequence[int]) -> list[str]:
    """Returns what an nvcc that knows ``known`` should compile for the ``visible`` GPUs."""
    if not visible:
        common = [arch for arch in DEFAULT_ARCHS if arch in known]
        return [f"{arch}-real" for arch in common] + [f"{common[-1]}-virtual"]
    archs: list[str] = []
    for arch in sorted(set(visible)):
        older = [k for k in known if k <= arch]
        if not older:
            raise BuildError(f"nvcc no longer compiles for the visible GPU (sm_{arch})")
        # A GPU newer than nvcc runs the newest PTX that nvcc can write.
        archs.append(f"{arch}-real" if arch in known else f"{max(older)}-virtual")
    return archs


def cuda_archs(nvcc: str) -> list[str]:
    """Returns the architectures to compile for, from the first source that names any."""
    for variable in ("YFK_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"):
        if text := os.environ.get(variable, "").strip():
            return parse_archs(text, variable)
    known = [int(number) for number in re.findall(r"compute_(\d+)", _ask(nvcc, "--list-gpu-arch"))]
    if not known:
        raise BuildError(f"{nvcc} --list-gpu-arch names no architecture")
    capabilities = _ask("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    visible = [int(a + b) for a, b in re.findall(r"^(\d+)\.(\d)\s*$", capabilities, re.MULTILINE)]
    return archs_for(visible, known)


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
    if message := re.search(r"^CMake Error.*:\n((?:  .*\n|\n)+)", log, re.MULTILINE):
        return " ".join(message[1].split())
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


def compile_module(kind: str) -> Path:
    """Configures and compiles the module.

    Args:
        kind: ``cuda`` for CPU and CUDA code, ``cpu`` for CPU code.

    Returns:
        The path of the compiled module inside the build folder.

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
    }
    nvcc = find_nvcc()
    if kind == "cuda":
        if nvcc is None:
            raise BuildError("nvcc was not found; put it on PATH or set CUDA_HOME")
        options["YFK_CUDA"] = "ON"
        options["CMAKE_CUDA_COMPILER"] = nvcc
        options["CMAKE_CUDA_ARCHITECTURES"] = ";".join(cuda_archs(nvcc))
    folder = BUILD_DIR
    if sanitizers := os.environ.get("YFK_SANITIZE"):
        options["YFK_SANITIZE"] = sanitizers
        folder = BUILD_DIR.with_name(f"{BUILD_DIR.name}-{sanitizers.replace(',', '-')}")
    _prepare_build_dir(folder, nvcc)
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    run([cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *definitions])
    run([cmake, "--build", str(folder)])
    return folder / "_C.so"


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
        built = "none"
        reasons = [f"YFK_BUILD={request}"] if request in ("cpu", "none") else []
        for kind in ATTEMPTS[request]:
            try:
                compiled = compile_module(kind)
            except BuildError as error:
                if request != "auto":
                    raise CompileError(f"YFK_BUILD={request}: {error}") from None
                self.warn(f"yfkernels builds without its {kind} code: {error}")
                reasons.append(str(error))
            else:
                built = kind
                _replace(module, compiled.read_bytes())
                break
        if built == "none":
            module.unlink(missing_ok=True)  # an earlier build's
        record = {"code": built, "reason": "; ".join(dict.fromkeys(reasons))}
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
