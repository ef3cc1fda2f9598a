"""Flat tensors as arrays of bytes, which Ray moves through shared memory without pickling them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]


def as_bytes(flat: Tensor) -> Bytes:
    """The memory of a flat tensor; a copy of it where that is on another device than the CPU."""
    array: Bytes = flat.detach().cpu().view(torch.uint8).numpy()
    return array


def as_tensor(array: Bytes, dtype: torch.dtype) -> Tensor:
    """Bytes that have arrived, as a tensor on the same memory, which is only to be read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).view(dtype)
