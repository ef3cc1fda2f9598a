"""One compiled kernel: what it needs of a multiprocessor, and what an element costs it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from occupancy import resident_threads
from sass import Code, Function

ARCHS = (80, 90, 100)

# Float32 operations on an element, a fused multiply-add being two: the sums of csrc/cuda/measure.cu
# and the rule of csrc/rules.h. They tell how many elements a loop takes at a time, whatever it
# reads and writes.
_FLOPS = {
    ("yellowfin_measure", "exact"): 6,
    ("yellowfin_measure", "sketch"): 3,
    ("yellowfin_apply", "exact"): 13,
    ("yellowfin_apply", "sketch"): 10,
}
# Triton's operations do not tell: for sm_100 it pairs them and fills up with multiplications by 1.
# These are the elements that a program of its kernels takes at a time.
_TRITON_TILES = {"yellowfin_measure": 4096, "yellowfin_apply": 2048}


@dataclass(frozen=True)
class Traffic:
    """Bytes of global memory that one element costs."""

    read: float
    written: float


@dataclass(frozen=True)
class Kernel:
    """A kernel as it was compiled for one architecture."""

    backend: str
    function: str
    dtype: str | None
    variants: tuple[str, ...]  # the variances that it serves
    arch: int
    registers: int  # of a thread
    spilled: int  # bytes: the stack, and what goes there and back
    shared: int  # bytes of a block
    ptx: str = field(repr=False)
    code: Function = field(repr=False)

    @property
    def block(self) -> int:
        """Threads of a block."""
        bound = re.search(r"\.(?:max|req)ntid\s+(\d+)", self.ptx)
        assert bound, f"{self.function} has no __launch_bounds__"
        return int(bound[1])

    @property
    def resident(self) -> int:
        """Threads that a multiprocessor holds at once."""
        return resident_threads(self.arch, self.block, self.registers, self.shared)

    @property
    def elementwise(self) -> bool:
        """Whether it runs over the elements of tensors, and not only over scalars."""
        return self.function in _TRITON_TILES

    def wide_loops(self) -> dict[str, Code]:
        """The 16-byte loop of each variance; the exact one, with a column more, loads more."""
        loops = self.code.wide_loops
        assert len(loops) == len(self.variants), (
            f"{self}: {len(loops)} loops with 16-byte accesses only, not {len(self.variants)}"
        )
        return dict(zip(self.variants, loops))

    def traffic(self, variant: str) -> Traffic:
        """What an element costs in the 16-byte loop, counted from the machine code."""
        loop = self.wide_loops()[variant]
        if self.backend == "Triton":
            elements = _TRITON_TILES[self.function] / self.block
        else:
            elements = loop.flops / _FLOPS[self.function, variant]
        read, written = (sum(w * n for w, n in c.items()) for c in (loop.loads, loop.stores))
        return Traffic(read / elements, written / elements)

    def __str__(self) -> str:
        arguments = ", ".join(filter(None, [self.dtype, *self.variants]))
        return f"{self.backend} {self.function}<{arguments}> sm_{self.arch}"
