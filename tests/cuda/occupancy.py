"""How many threads of a kernel a multiprocessor holds at once.

Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". How registers
and shared memory are dealt out: cuda_occupancy.h of the CUDA toolkit, which test_occupancy.py
compares this with.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
_PARTITIONS = 4  # of a multiprocessor, each with its share of the registers
_REGISTERS_AT_ONCE = 256  # what a warp gets is a multiple of this
_SHARED_AT_ONCE = 128
_SHARED_RESERVED = 1024  # bytes that the driver adds to each block's


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor."""

    threads: int
    blocks: int
    registers: int
    shared: int  # bytes


LIMITS = {
    80: Limits(threads=2048, blocks=32, registers=65536, shared=164 * 1024),
    90: Limits(threads=2048, blocks=32, registers=65536, shared=228 * 1024),
    100: Limits(threads=2048, blocks=32, registers=65536, shared=228 * 1024),
}


def _round_up(x: int, unit: int) -> int:
    return -(-x // unit) * unit


def resident_threads(arch: int, block: int, registers: int, shared: int) -> int:
    """Threads on one multiprocessor, with `registers` a thread and `shared` bytes a block."""
    limits = LIMITS[arch]
    warps = _round_up(block, WARP) // WARP
    for_a_warp = _round_up(registers * WARP, _REGISTERS_AT_ONCE)
    by_registers = limits.registers // _PARTITIONS // for_a_warp * _PARTITIONS // warps
    if _round_up(warps, _PARTITIONS) * for_a_warp > limits.registers:
        by_registers = 0
    by_shared = limits.shared // _round_up(shared + _SHARED_RESERVED, _SHARED_AT_ONCE)
    by_threads = limits.threads // WARP // warps
    return block * min(by_registers, by_shared, by_threads, limits.blocks)
