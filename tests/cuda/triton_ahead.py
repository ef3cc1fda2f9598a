"""Compiles every Triton kernel for GPUs that are not here: run by from_triton.py.

A stand-in for Triton's driver names the architecture, and each backend operation is called as the
optimizer calls it, so that what is compiled is what a launch on that GPU would compile. Prints one
JSON object a kernel: what it is, its PTX, its machine code in base64, the assembler's account of
its resources and the shared memory that a launch asks for.

With "whole" these are the updates of a model of so many chunks that none is cut into pieces.

Usage: triton_ahead.py 90 [whole]
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton_driver import Driver

from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import GATE_STATE, GROUP_FIELDS, SUMS, TILE
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import (
    LAMB,
    LAMB_BYTES,
    QHADAM,
    QHADAM_BYTES,
    QHM,
    YELLOWFIN,
    YELLOWFIN_COMPACT,
    YELLOWFIN_DIAGONAL,
    YELLOWFIN_FLOAT8,
    YELLOWFIN_ROBUST,
    YELLOWFIN_SKETCH,
    Measure,
    Rule,
)
from yfkernels.ops.table import GRANULARITY, Column, Row, TensorTable
from yfkernels.ops.tangents import (
    ADAM,
    FAMILIES,
    MOMENTUM,
    PROJECTED,
    PROJECTION,
    Family,
    stored,
)
from yfkernels.ops.tangents import (
    preconditioned as of_moments,
)
from yfkernels.ops.triton import (
    averaging,
    gate,
    measurement,
    preconditioned,
    projection,
    tangents,
    tune,
    update,
    words,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The rules of each pass; yellowfin_sketch moves as yellowfin does.
RULES = {
    "update": (
        YELLOWFIN,
        YELLOWFIN_SKETCH,
        YELLOWFIN_ROBUST,
        YELLOWFIN_DIAGONAL,
        YELLOWFIN_COMPACT,
        YELLOWFIN_FLOAT8,
        QHM,
        QHADAM,
        QHADAM_BYTES,
    ),
    "update_state": (YELLOWFIN, YELLOWFIN_SKETCH, LAMB, LAMB_BYTES),
    "apply": (YELLOWFIN, LAMB, LAMB_BYTES),
}
# Those that need most registers, which stand for the rest in the other forms of a parameter.
LARGEST = {
    "update": (QHADAM, YELLOWFIN_ROBUST, YELLOWFIN_DIAGONAL),
    "update_state": (LAMB,),
    "apply": (LAMB,),
}
FORMS = {
    (torch.float32, None): RULES,
    (torch.bfloat16, "master"): RULES,
    (torch.bfloat16, "rounded"): LARGEST,
    (torch.float16, "master"): LARGEST,
    (torch.float16, "rounded"): LARGEST,
}
OPTIONS = YellowFinOptions(
    momentum_form="buffer", sparsity_debias=True, robust=False, preconditioner=None
)


class Ahead:
    """Stands for a kernel: compiles where that would launch."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.compiled: Any = None
        self.options: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def compile_only(*args: Any, **options: Any) -> None:
            self.options = options
            self.compiled = self.kernel.warmup(*args, grid=grid, **options)

        return compile_only


def table_of(rule: Rule, dtype: torch.dtype, form: str | None) -> TensorTable:
    """A table as it would be on a GPU, but for the addresses."""
    columns = {Column.PARAM: torch.zeros(9, dtype=dtype)}
    columns |= {Column.state(k): torch.zeros(9) for k in range(rule.states)}
    if rule.stored.coded:
        columns[Column.state(1)] = torch.zeros(9, dtype=torch.uint8)
    if rule.stored.in_float8:
        columns[Column.STATE] = torch.zeros(9, dtype=torch.uint8)
    if form == "master":
        columns[Column.MASTER] = torch.zeros(9)
    table = TensorTable(backend_of("triton", "cuda"), [Row(0, 0, 0, columns)])
    table.chunk_size = GRANULARITY["cuda"].chunk
    return table


def tangents_of(family: Family) -> TensorTable:
    """Likewise, with all columns of a family."""
    states = 1 + len(family.slots) + family.tangents
    columns = {Column.PARAM: torch.zeros(9)}
    columns |= {Column.state(k): torch.zeros(9) for k in range(states)}
    table = TensorTable(backend_of("triton", "cuda"), [Row(0, 0, 0, columns)])
    table.chunk_size = GRANULARITY["cuda"].chunk
    return table


MEASURE = measurement.measure = Ahead(measurement.measure)
GATE = gate.gate = Ahead(gate.gate)
UPDATE = update.update = Ahead(update.update)
UPDATE_STATE = update.update_state = Ahead(update.update_state)
APPLY = update.apply = Ahead(update.apply)
TUNE = tune.yellowfin_tune = Ahead(tune.yellowfin_tune)
TUNE_PRECONDITIONED = preconditioned.preconditioned_tune = Ahead(preconditioned.preconditioned_tune)
AVERAGE = averaging.average = Ahead(averaging.average)
ADVANCE = tangents.advance = Ahead(tangents.advance)
OWN = tangents.own = Ahead(tangents.own)
PROJECT = projection.project = Ahead(projection.project)
WRITE = words.write = Ahead(words.write)
LAUNCHES = {
    "update": (update.launch_update, UPDATE),
    "update_state": (update.launch_update_state, UPDATE_STATE),
    "apply": (update.launch_apply, APPLY),
}

# Every kernel by function, dtype and variant.
Kernels = dict[tuple[str, str | None, str | None], Any]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def coefficients_of(rule: Rule) -> torch.Tensor:
    return torch.zeros(1, len(rule.fields), dtype=torch.float64)


PARTIALS = torch.zeros(1, len(SUMS), dtype=torch.float64)
SKETCHES = torch.zeros(1, TILE)
SCALARS = (torch.ones(()), torch.ones(()))  # grad_scale and found_inf


def compile_measurements() -> Kernels:
    kernels: Kernels = {}
    for dtype in DTYPES:
        for what in Measure:
            sketches = SKETCHES if what == Measure.SKETCH else None
            measurement.launch(table_of(YELLOWFIN, dtype, None), what, PARTIALS, sketches)
            kernels["measure", name_of(dtype), what.name.lower()] = MEASURE.compiled
    table = table_of(LAMB, torch.float32, None)
    memory = (torch.zeros(len(GATE_STATE), dtype=torch.float64), coefficients_of(LAMB))
    measurement.launch_with_gate(table, PARTIALS, PARTIALS, *SCALARS, *memory)
    kernels["measure_then_decide", "float32", None] = MEASURE.compiled
    gate.launch(PARTIALS, *SCALARS, *memory)
    kernels["gate", None, None] = GATE.compiled
    words.launch_write(torch.zeros(words.WORDS, dtype=torch.int64), [0] * words.WORDS)
    kernels["write", None, None] = WRITE.compiled
    return kernels


def compile_updates() -> Kernels:
    kernels: Kernels = {}
    for (dtype, form), rules_of in FORMS.items():
        for function, rules in rules_of.items():
            launch, kernel = LAUNCHES[function]
            for rule in rules:
                launch(rule, table_of(rule, dtype, form), coefficients_of(rule))
                variant = " ".join(filter(None, [rule.name, form]))
                kernels[function, name_of(dtype), variant] = kernel.compiled
    return kernels


def compile_updates_of_whole_chunks() -> Kernels:
    """Where PIECE is CHUNK: more chunks than programs, and a rule that does not sum by pieces."""
    kernels: Kernels = {}
    for (dtype, form), rules_of in FORMS.items():
        for function in ("update", "apply"):
            launch, kernel = LAUNCHES[function]
            for rule in rules_of[function]:
                if rule.move_sums and function == "update":
                    continue
                table = table_of(rule, dtype, form)
                table.num_chunks = 2**20
                launch(rule, table, coefficients_of(rule))
                assert kernel.options["PIECE"] == kernel.options["CHUNK"], (function, rule.name)
                variant = " ".join(filter(None, [rule.name, form]))
                kernels[function, name_of(dtype), variant] = kernel.compiled
    return kernels


def compile_averages() -> Kernels:
    kernels: Kernels = {}
    half = (
        WeightAverage(dtype=torch.bfloat16),
        [(torch.float32, None), (torch.bfloat16, "master")],
    )
    for average, forms in ((WeightAverage(), list(FORMS)), half):
        for dtype, form in forms:
            averaging.launch_average(table_of(QHM, dtype, form), coefficients_of(QHM), average)
            variant = " ".join(filter(None, [name_of(average.of(torch.float32)), form]))
            kernels["average", name_of(dtype), variant] = AVERAGE.compiled
    return kernels


def compile_tangents(num_chunks: int = 1) -> Kernels:
    kernels: Kernels = {}
    for family in FAMILIES:
        table = tangents_of(family)
        table.num_chunks = num_chunks
        given = (family, table, torch.zeros(1, len(family.fields)).double())
        tangents.launch_advance(*given)
        kernels["advance", "float32", family.name] = ADVANCE.compiled
        tangents.launch_own(*given)
        kernels["own", "float32", family.name] = OWN.compiled
    return kernels


def compile_projections() -> Kernels:
    kernels: Kernels = {}
    numbers, sums = (torch.zeros(1, len(names)).double() for names in (PROJECTION, PROJECTED))
    for family, form in {
        MOMENTUM: stored(MOMENTUM.probe, MOMENTUM.tangent()),
        ADAM: of_moments(ADAM.slot(0), ADAM.tangent()),
    }.items():
        projection.launch_project(form, tangents_of(family), numbers, sums)
        kernels["project", "float32", form.name] = PROJECT.compiled
    return kernels


def compile_tuners() -> Kernels:
    kernels: Kernels = {}
    groups = torch.zeros(1, len(GROUP_FIELDS), dtype=torch.float64)
    scratch = torch.zeros(TILE + 1, dtype=torch.float64)
    for variant, options in {
        "exact": OPTIONS,
        "linear": dataclasses.replace(OPTIONS, log_smooth=False),
        "sketch": dataclasses.replace(OPTIONS, variance="sketch"),
        "robust": dataclasses.replace(OPTIONS, momentum_form="polyak", robust=True),
    }.items():
        state = torch.zeros(options.state_words, dtype=torch.float64)
        memory = (state, groups, coefficients_of(YELLOWFIN), scratch)
        sketches = SKETCHES if options.sketch else None
        tune.launch(options, PARTIALS, sketches, *SCALARS, *memory)
        kernels["yellowfin_tune", None, variant] = TUNE.compiled
    options = YellowFinOptions(preconditioner="diagonal")
    for variant, log_smooth in {"": True, "linear": False}.items():
        chosen = dataclasses.replace(options, log_smooth=log_smooth)
        state = torch.zeros(chosen.state_words, dtype=torch.float64)
        memory = (state, groups, coefficients_of(YELLOWFIN))
        preconditioned.launch(chosen, PARTIALS, *SCALARS, *memory)
        kernels["preconditioned_tune", None, variant or None] = TUNE_PRECONDITIONED.compiled
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
    if sys.argv[2:] == ["whole"]:
        kernels = compile_updates_of_whole_chunks() | compile_tangents(num_chunks=2**20)
    else:
        kernels = compile_measurements() | compile_updates() | compile_tuners()
        kernels |= compile_averages() | compile_tangents() | compile_projections()
    for (function, dtype, variant), kernel in kernels.items():
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
