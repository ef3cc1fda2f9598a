"""Compiles every Triton kernel for GPUs that are not here: run by from_triton.py.

A stand-in for Triton's driver names the architecture, and each backend operation is called as the
optimizer calls it, so that what is compiled is what a launch on that GPU would compile. Prints one
JSON object a kernel: what it is, its PTX, its machine code in base64, the assembler's account of
its resources and the shared memory that a launch asks for.

Usage: triton_ahead.py 90
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from yfkernels.ops.table import GRANULARITY, Column, Row, TensorTable
from yfkernels.ops.triton import apply, measure, tune
from yfkernels.ops.tuner import COEFFICIENT_FIELDS, GROUP_FIELDS, SUMS, TILE, TunerOptions

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = TunerOptions(
    beta=0.999,
    max_norm=math.inf,
    initial_lr=1e-4,
    initial_momentum=0.0,
    window=20,
    adaptive_clip=True,
    polyak=False,
    log_smooth=True,
    sparsity_debias=True,
    sketch=False,
)


class Driver:
    """What Triton asks of a driver before it launches."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # Triton keeps a cache of kernels for each device

    def get_current_stream(self, device: int) -> int:
        return 0


class Ahead:
    """Stands for a kernel: compiles where that would launch."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.compiled: Any = None

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def compile_only(*args: Any, **options: Any) -> None:
            self.compiled = self.kernel.warmup(*args, grid=grid, **options)

        return compile_only


def table_of(dtype: torch.dtype, sketch: bool) -> TensorTable:
    """A table as it would be on a GPU, but for the addresses."""
    columns = {Column.PARAM: torch.zeros(9, dtype=dtype), Column.MOMENTUM: torch.zeros(9)}
    if dtype != torch.float32:
        columns[Column.MASTER] = torch.zeros(9)
    if not sketch:
        columns[Column.GRAD_AVG] = torch.zeros(9)
    table = TensorTable("triton", [Row(0, 0, 0, columns)])
    table.chunk_size = GRANULARITY["cuda"].chunk
    return table


MEASURE = measure.yellowfin_measure = Ahead(measure.yellowfin_measure)
APPLY = apply.yellowfin_apply = Ahead(apply.yellowfin_apply)
TUNE = tune.yellowfin_tune = Ahead(tune.yellowfin_tune)


def compile_all() -> dict[tuple[str, str | None, str], Any]:
    """Every kernel in every form that options and dtypes bring about: function, dtype, variant."""
    kernels: dict[tuple[str, str | None, str], Any] = {}
    partials = torch.zeros(1, len(SUMS), dtype=torch.float64)
    sketches = torch.zeros(1, TILE)
    groups = torch.zeros(1, len(GROUP_FIELDS), dtype=torch.float64)
    coefficients = torch.zeros(1, len(COEFFICIENT_FIELDS), dtype=torch.float64)
    scratch = torch.zeros(TILE + 1, dtype=torch.float64)
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for variance in ("exact", "sketch"):
            table = table_of(dtype, variance == "sketch")
            measure.launch(table, partials, sketches if variance == "sketch" else None)
            kernels["yellowfin_measure", name, variance] = MEASURE.compiled
            apply.launch(table, coefficients)
            kernels["yellowfin_apply", name, variance] = APPLY.compiled
    for variant, options in {
        "exact": OPTIONS,
        "linear": dataclasses.replace(OPTIONS, log_smooth=False),
        "sketch": dataclasses.replace(OPTIONS, sketch=True),
    }.items():
        state = torch.zeros(options.state_words, dtype=torch.float64)
        scalar = torch.ones(())
        shared = (scalar, scalar, state, groups, coefficients, scratch)
        tune.launch(options, partials, sketches if options.sketch else None, *shared)
        kernels["yellowfin_tune", None, variant] = TUNE.compiled
    return kernels


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread (REG), and bytes of stack and local memory, where spills go."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        command = [tool, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"\b([A-Z]+):(\d+)", report)}


if __name__ == "__main__":
    architecture = int(sys.argv[1])
    triton.runtime.driver.set_active(Driver(architecture))
    for (function, dtype, variant), kernel in compile_all().items():
        found = {
            "function": function,
            "dtype": dtype,
            "variant": variant,
            "arch": architecture,
            "ptx": kernel.asm["ptx"],
            "cubin": base64.b64encode(kernel.asm["cubin"]).decode(),
            "resources": resources(kernel.asm["cubin"]),
            "shared": kernel.metadata.shared,
        }
        print(json.dumps(found))
