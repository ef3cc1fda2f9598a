"""Builds and runs the program of check.cpp, from csrc/cuda as it is or from a changed copy.

And, of the same objects, a Python module in which the kernels run as they do in that program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock  # torch brings it

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
KERNELS = sorted((CSRC / "cuda").glob("*.cu"))
CPU_DRIVER = sorted((CSRC / "cpu").glob("*.cpp"))
CHECKS = sorted(HERE.rglob("*.cpp"))
DEVICE = sorted(HERE.glob("device/*.cpp"))
BINDINGS = sorted(CSRC.glob("*.cpp"))
# The passes of qhm.cu and lamb.cu once more, with other rules. Sanitizers and removed barriers
# would only look for the same faults in the same lines again, at the compiler's pace.
REPEATED = ("preconditioned", "qhadam", "robust", "yellowfin")
FLAGS = [
    *("-std=c++17", "-fPIC", "-Wno-psabi", "-pthread"),
    "-ffp-contract=off",  # as the CPU driver is always built: both have to round alike
    "-fno-strict-aliasing",  # kernels read columns of floats as float4, which nvcc allows
    "-DYFK_ISA=baseline",
    "-fvisibility=hidden",  # calls that need no table, and may be inlined
]
# The driver and the bindings are tested as setup.py builds them; here they are only there.
# Kernels take longer to compile at -O1 than that makes up for, but for AddressSanitizer, whose
# frames would not fit a fiber's stack at -Og. Fibers are where the time goes.
LEVELS = {
    **dict.fromkeys([*CPU_DRIVER, *BINDINGS], "-O0"),
    **dict.fromkeys(CHECKS, "-O1"),
    **dict.fromkeys(DEVICE, "-O2"),
}
PLAIN = ()
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")
# Nothing is leaked but what lives to the end, and looking for it needs rights that containers lack.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
TIMEOUT = 240  # seconds; a kernel that never ends is a failure


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it printed."""

    failed: bool
    output: str


def run(*command: str | Path, **environment: str) -> Outcome:
    """Run a command to its end, however it ends, with more variables than there are."""
    result = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        env=ENVIRONMENT | environment,
    )
    return Outcome(result.returncode != 0, f"{' '.join(map(str, command))}\n{result.stdout}")


class Workshop:
    """Compiles each object once for each set of flags, into one folder.

    Processes may share the folder: who wants an object that another is compiling waits for it.
    """

    def __init__(self, compiler: str, folder: Path) -> None:
        self.compiler = compiler
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.program = cache(self._program)  # of a set of flags

    def module(self) -> Path:
        """yfkernels._C, whose CUDA kernels take addresses of the host."""
        import pybind11

        python = (f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}")
        bindings = self._compiled(BINDINGS, ("-DYFK_WITH_CUDA=1", *python))
        objects = self._compiled([*KERNELS, *CPU_DRIVER, *DEVICE], PLAIN)
        return self._linked([*bindings, *objects], ("-shared",), self.folder / "_C.so")

    def copy(self, file: str, old: str, new: str) -> Path:
        """A copy of csrc in which `old` became `new` in one file of csrc/cuda, where it is once."""
        csrc = Path(mkdtemp(prefix="copy", dir=self.folder)) / "csrc"
        shutil.copytree(CSRC, csrc, ignore=shutil.ignore_patterns("cpu"))
        target = csrc / "cuda" / file
        lines = target.read_text().splitlines(keepends=True)
        places = [i for i, text in enumerate(lines, 1) if old in text]
        if len(places) != 1:
            raise ValueError(f"old={old!r} is on lines {places} of {file}: it has to be on one")
        lines[places[0] - 1] = lines[places[0] - 1].replace(old, new)
        target.write_text("".join(lines))
        return csrc

    def including(self, file: str) -> list[str]:
        """The kernels (measure, qhm, ...) compiled from a file of csrc/cuda, but the REPEATED."""
        if file.endswith(".cu"):
            return [Path(file).stem]
        kernels = [k for k in KERNELS if k.stem not in REPEATED]
        scans = [run(self.compiler, *_flags(CSRC), "-x", "c++", "-MM", k) for k in kernels]
        return [k.stem for k, scan in zip(kernels, scans) if f"/{file}" in scan.output]

    def changed_program(self, csrc: Path, kernels: Iterable[str], flags: tuple[str, ...]) -> Path:
        """The program with some of its kernels from a copy of csrc."""
        copies = {k: csrc / "cuda" / f"{k}.cu" for k in kernels}
        rest = [k for k in KERNELS if k.stem not in copies]
        objects = self._objects(rest, flags)
        changed = [
            self._compile(source, flags, csrc, csrc.parent / f"{name}.o")
            for name, source in copies.items()
        ]
        return self._linked([*objects, *changed], flags, csrc.parent / "check")

    def _program(self, flags: tuple[str, ...]) -> Path:
        objects = self._objects(KERNELS, flags)
        target = self.folder / f"check{'_'.join(flags)}"
        with FileLock(f"{target}.lock"):
            return target if target.exists() else self._linked(objects, flags, target)

    def _objects(self, kernels: list[Path], flags: tuple[str, ...]) -> list[Path]:
        """Of these kernels and of everything else.

        Sanitizers slow the compiler down by a factor of up to six, so they are left to what is
        under test, and to those of the checks that have to know of them.
        """
        tested = [k for k in kernels if k.stem not in REPEATED]
        tested += [s for s in CHECKS if "sanitizers.h" in s.read_text()]
        others = [s for s in [*kernels, *CPU_DRIVER, *CHECKS] if s not in tested]
        return self._compiled(tested, flags) + self._compiled(others, PLAIN)

    def _compiled(self, sources: list[Path], flags: tuple[str, ...]) -> list[Path]:
        def compiled(source: Path) -> Path:
            own = "_".join(flag for flag in flags if "/" not in flag)
            target = self.folder / f"{source.parent.name}_{source.name}{own}.o"
            with FileLock(f"{target}.lock"):
                return target if target.exists() else self._compile(source, flags, CSRC, target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(compiled, sources))

    def _compile(self, source: Path, flags: tuple[str, ...], csrc: Path, target: Path) -> Path:
        level = LEVELS.get(source, "-O1" if flags else "-Og")
        self._succeed(*_flags(csrc), level, *flags, "-x", "c++", "-c", source, "-o", target)
        return target

    def _linked(self, objects: list[Path], flags: tuple[str, ...], target: Path) -> Path:
        libraries = ["-ldl"]  # a library of its own before glibc 2.34
        self._succeed(*FLAGS, *flags, *objects, *libraries, "-o", target)
        return target

    def _succeed(self, *arguments: str | Path) -> None:
        outcome = run(self.compiler, *arguments)
        if outcome.failed:
            raise RuntimeError(outcome.output)


def _flags(csrc: Path) -> list[str]:
    return [*FLAGS, f"-I{csrc}", f"-I{HERE}", f"-I{HERE / 'include'}"]
