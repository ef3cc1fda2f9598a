"""What the compiled module is given: addresses, sizes and options."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops.native.module import Module
from yfkernels.ops.options import TUNER_OPTIONS, YellowFinOptions
from yfkernels.ops.table import TensorTable

_DTYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


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


@cache
def compiled_options(module: Module, options: YellowFinOptions) -> Any:
    """The options as the compiled module keeps them."""
    return module.TunerOptions(**{name: getattr(options, name) for name in TUNER_OPTIONS})
