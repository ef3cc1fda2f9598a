"""Writes numbers of the host to the device: the words travel in a kernel's arguments."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from yfkernels.ops.triton.launch import launch, was_launched

# Words of a launch: 16 bytes each of the 4096 that all devices take as arguments of a kernel.
WORDS = 240
# Triton has a type of its own for small numbers in a tuple, and kernels of their own for 1 and for
# multiples of 16. Halves of words are sent as numbers that are none of these.
_LARGE = 1 << 40
_ODD = 2


@triton.jit(do_not_specialize=["target", "stride", "count"])
def write(target, stride, count, halves):
    """target: int64; word k goes `stride` of them further than word k - 1. count: words."""
    for first in tl.static_range(0, len(halves) // 2, 16):
        if first < count:  # in blocks, or the compiler loads all words before it stores the first
            for k in tl.static_range(first, first + 16):
                low = (halves[2 * k] >> 2) & 0xFFFFFFFF
                high = (halves[2 * k + 1] >> 2) & 0xFFFFFFFF
                tl.store(target + k * stride, low | (high << 32), mask=k < count)


def _halves(words: list[int]) -> tuple[int, ...]:
    """Lower and upper half of each word, and of zeros up to WORDS."""
    padded = words + [0] * (WORDS - len(words))
    halves = (half & 0xFFFFFFFF for word in padded for half in (word, word >> 32))
    return tuple((half << 2) + _LARGE + _ODD for half in halves)


def is_loaded(device: torch.device) -> bool:
    """Whether a device has the kernel by now."""
    return was_launched(write, device)


def launch_write(target: Tensor, words: list[int]) -> None:
    """Writes words to a one-dimensional int64 tensor; also where a graph is captured."""
    (stride,) = target.stride()
    for first in range(0, len(words), WORDS):
        part = words[first : first + WORDS]
        arguments = (target[first:], stride, len(part), _halves(part))
        launch(write, 1, target.device, "writing addresses and settings", arguments, num_warps=1)
