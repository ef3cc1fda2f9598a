"""What the compiled module is given: addresses, sizes and options."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.native.module import Module
from yfkernels.ops.options import TUNER_OPTIONS, YellowFinOptions
from yfkernels.ops.table import TensorTable
from yfkernels.ops.tangents import Projection

_DTYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_NOWHERE = -1  # a column that is not there, as csrc/tangents.h has it


def address(tensor: Tensor | None) -> int:
    """Where a tensor's first element is; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def table_of(table: TensorTable) -> tuple[int, int, int, int, int]:
    """(rows, chunks, number of chunks, elements of a chunk, dtype), as every pass takes them."""
    return (
        table.words.data_ptr(),
        table.chunks.data_ptr(),
        table.num_chunks,
        table.chunk_size,
        _DTYPE[table.dtype],
    )


def average_of(average: WeightAverage, coefficients: Tensor) -> tuple[int, int, float, float]:
    """(dtype, coefficients, power, every), as the passes take them."""
    dtype = _DTYPE[average.of(torch.float32)]
    return dtype, coefficients.data_ptr(), float(average.power), float(average.every)


def projection_of(projection: Projection) -> tuple[int, int, int]:
    """(form, column of B, column of Zw), as the passes take them."""
    return (
        projection.id,
        _NOWHERE if projection.own is None else projection.own,
        _NOWHERE if projection.tangent is None else projection.tangent,
    )


@cache
def compiled_options(module: Module, options: YellowFinOptions) -> Any:
    """The options as the compiled module keeps them."""
    return module.TunerOptions(**{name: getattr(options, name) for name in TUNER_OPTIONS})
