"""Starts the hunt for faults in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def hunt(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m programs.hunting`, on one thread; it ends with 1 if a program fails."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environment = {"TRITON_INTERPRET": "1", **os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "programs.hunting", *arguments],
        check=False,
        cwd=ROOT / "tests",
        env=environment | {"PYTHONPATH": paths} | variables,
        capture_output=True,
        text=True,
    )
