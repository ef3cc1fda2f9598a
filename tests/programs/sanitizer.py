"""The compiled module under AddressSanitizer: `python -m programs.sanitizer --count 200`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from programs.runner import ROOT
from programs.runner import hunt as plain_hunt

FOLDER = ROOT / "build" / "address"
MODULE = FOLDER / "yfkernels" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
LIBRARIES = ("libasan.so", "libstdc++.so")  # what throws must be there when libasan starts


def missing() -> str | None:
    """Why there is no AddressSanitizer here, or None."""
    if platform.system() != "Linux":
        return "AddressSanitizer is tried on Linux"
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return "no C++ compiler"
    for name, path in zip(LIBRARIES, _libraries(compiler)):
        if not Path(path).is_absolute():
            return f"{compiler} has no {name}"
    return None


def build() -> Path:
    """Compiles the module, or what has changed of it."""
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(FOLDER)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "YFK_BUILD": "cpu", "YFK_SANITIZE": "address"},
        stdout=subprocess.DEVNULL,
    )
    return MODULE


def hunt(module: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Random programs over that module; a report of the sanitizer ends the program."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler is not None
    return plain_hunt(
        *("--module", str(module), *arguments),
        LD_PRELOAD=" ".join(_libraries(compiler)),
        ASAN_OPTIONS="detect_leaks=0:exitcode=99:alloc_dealloc_mismatch=0",
    )


def _libraries(compiler: str) -> list[str]:
    """Their paths; a bare name where the compiler knows of none."""
    return [
        subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()
        for name in LIBRARIES
    ]


def main() -> int:
    if reason := missing():
        print(reason, file=sys.stderr)
        return 1
    found = hunt(build(), *sys.argv[1:])
    print(found.stdout, found.stderr, sep="\n")
    return found.returncode


if __name__ == "__main__":
    sys.exit(main())
