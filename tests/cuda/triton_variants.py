"""Counts the variants of each kernel that steps can ask for: run by test_triton_variants.py.

One optimizer, and whatever may change between its steps or with the model: where gradients, scalars
and state lie in memory, what GradScaler gives, how many groups, slots and chunks there are. Nothing
is compiled: a hook of Triton's counts what would be. Prints [Triton's count, our own count] of each
kernel as JSON.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch import Tensor
from triton_driver import Driver

from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.backends import backend_of
from yfkernels.ops.constants import GATE_STATE, GROUP_FIELDS, SUMS, TILE
from yfkernels.ops.options import YellowFinOptions
from yfkernels.ops.rules import LAMB, QHM, YELLOWFIN, YELLOWFIN_ROBUST, Measure
from yfkernels.ops.table import Column, Row, TensorTable
from yfkernels.ops.tangents import MOMENTUM, PROJECTED, PROJECTION, stored
from yfkernels.ops.triton import launch, words

OPTIONS = YellowFinOptions(sparsity_debias=True, preconditioner=None)
backend = backend_of("triton", "cuda")


def places(*size: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Such a tensor on 16 bytes, and off them."""
    room = torch.zeros(math.prod(size) + 1, dtype=dtype)
    return [room[:-1].view(size), room[1:].view(size)]


def tables(states: int) -> Iterator[TensorTable]:
    for chunks in (1, 16, 17):
        for grad in places(chunks * 8, dtype=torch.float32):
            size = grad.numel()
            columns = {Column.PARAM: torch.zeros(size)}
            columns |= {Column.state(k): torch.zeros(size) for k in range(states)}
            table = TensorTable(backend, [Row(0, 0, 0, columns)])
            table.chunk_size, table.num_chunks, table.num_slots = 4096, chunks, chunks
            for move_sums in places(2):
                table.move_sums = move_sums
                backend.upload(table, Column.GRAD, [grad.data_ptr()])
                yield table


def scalars() -> Iterator[tuple[Tensor | None, Tensor | None]]:
    for scale in (None, *places(1, dtype=torch.float32)):
        for verdict in (None, *places(1, dtype=torch.float32)):
            yield scale, verdict


def take_every_step() -> None:
    for rule in (YELLOWFIN, YELLOWFIN_ROBUST, QHM):
        for table in tables(rule.states):
            for coefficients in places(1, len(rule.fields)):
                backend.update(rule, table, coefficients)
                backend.average(table, coefficients, WeightAverage())
    for table in tables(LAMB.states):
        for coefficients in places(1, len(LAMB.fields)):
            backend.update_state_then_apply(LAMB, table, coefficients)
    for slots in (1, 16, 17):
        for partials in places(slots, len(SUMS)):
            for groups in (1, 2, 16):
                for scaler in scalars():
                    decide(partials, groups, scaler)
    for table in tables(QHM.states):
        for own in places(table.num_slots, len(SUMS)):
            for what in (Measure.NORM, Measure.AVERAGE):
                backend.measure(table, what, own)
            state, coefficients = (
                torch.zeros(1, len(x)).double() for x in (GATE_STATE, QHM.fields)
            )
            for scaler in scalars():
                backend.measure_then_decide(table, own, own, *scaler, state[0], coefficients)


def take_every_tangent() -> None:
    for table in tables(2 + 2 * len(MOMENTUM.slots)):
        for coefficients in places(1, len(MOMENTUM.fields)):
            backend.advance_tangents(MOMENTUM, table, coefficients)
            backend.own_derivatives(MOMENTUM, table, coefficients)
        for numbers, sums in zip(places(1, len(PROJECTION)), places(1, len(PROJECTED))):
            backend.project(stored(MOMENTUM.tangent()), table, numbers, sums)


def decide(partials: Tensor, groups: int, scaler: tuple[Tensor | None, Tensor | None]) -> None:
    scratch = torch.zeros(TILE + 1, dtype=torch.float64)
    for state in places(4096 + 2 * OPTIONS.state_words):
        for coefficients in places(groups, len(QHM.fields)):
            for measured in (None, partials):
                backend.decide(measured, *scaler, state, coefficients)
        rows = torch.zeros(groups, len(GROUP_FIELDS), dtype=torch.float64)
        for coefficients in places(groups, len(YELLOWFIN.fields)):
            for options in (OPTIONS, YellowFinOptions(preconditioner="diagonal")):
                memory = (state, rows, coefficients, scratch)
                backend.tune_yellowfin(options, partials, None, *scaler, *memory)


def write_words() -> None:
    for target in places(words.WORDS + 16, dtype=torch.int64):
        for stride in (1, 2, 12, 16):
            cells = target[: 16 * stride : stride] if stride > 1 else target
            for count in (1, 2, 16, len(cells)):
                for value in (0, 1, 16, -1, 1 << 40, -(1 << 63), (1 << 63) - 1):
                    words.launch_write(cells, [value] * count)


if __name__ == "__main__":
    triton.runtime.driver.set_active(Driver(90))
    keys: dict[str, set[str]] = defaultdict(set)
    name_of: dict[int, str] = {}

    def count(*, key: str, fn: Any, **_: Any) -> bool:
        name = fn.name.rsplit(".", 1)[-1]
        keys[name].add(key)
        name_of[id(fn.jit_function)] = name
        return True  # compiles nothing

    triton.knobs.runtime.jit_cache_hook = count
    take_every_step()
    take_every_tangent()
    write_words()
    own = {name_of[kernel]: len(variants) for (kernel, _), variants in launch._launched.items()}
    print(json.dumps({name: [len(found), own.get(name)] for name, found in sorted(keys.items())}))
