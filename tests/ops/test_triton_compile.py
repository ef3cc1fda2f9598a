"""What the Triton kernels become on GPUs, read from the PTX and the assembler; needs no GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from triton_ahead import ARCHITECTURES, DTYPES

ROOT = Path(__file__).parents[2]
VARIANCES = ("exact", "sketch")
REGISTERS_OF_AN_SM = 65536
THREADS = 256


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel; the fields as triton_ahead.py prints them."""

    name: str
    architecture: int
    ptx: str
    resources: dict[str, int]

    def blocks(self) -> Iterator[list[str]]:
        """The instructions of each basic block: what lies between labels."""
        body = self.ptx[self.ptx.index("{\n") :]
        for block in re.split(r"^\$L\w+:", body, flags=re.M):
            yield re.findall(r"(?:^|[\s;{])((?:\w+[.:])+\w+)\s", block)

    def tile_blocks(self, width: str) -> list[list[str]]:
        """The blocks that load tensor elements in accesses of this width."""
        return [
            block
            for block in self.blocks()
            if any(op.startswith("ld.global") and op.endswith(width) for op in block)
        ]
