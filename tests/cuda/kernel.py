"""One compiled kernel: what it needs of a multiprocessor, and what an element costs it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from occupancy import resident_threads
from sass import Code, Function

ARCHS = (80, 90, 100)

UPDATES = ("update", "update_state", "apply")
TANGENTS = ("advance", "own", "project")
AVERAGES = ("float32", "bfloat16")  # what averages are kept in

# Float32 operations on an element, a fused multiply-add being two: the sums of csrc/cuda/measure.cu
# and the rules of csrc/rules. They tell how many elements a loop takes at a time, whatever it
# reads and writes.
_FLOPS = {
    ("measure", "norm"): 2,
    ("measure", "average"): 6,
    ("measure", "sketch"): 3,
    ("update", "yellowfin"): 13,
    ("update", "yellowfin_sketch"): 10,
    ("update", "yellowfin_robust"): 14,
    ("update", "qhm"): 12,
    ("update_state", "yellowfin"): 14,
    ("update_state", "yellowfin_sketch"): 11,
    ("apply", "yellowfin"): 3,
    ("advance", "plain"): 13,
    ("advance", "momentum"): 26,
    ("own", "plain"): 5,
    ("own", "momentum"): 11,
    ("project", "stored"): 13,
    # of an average that begins with the parameter, and of one that goes on: both are worked out
    **{("average", dtype): 6 for dtype in AVERAGES},
}
# Those of rounding a parameter without a master, where it is written.
_ROUNDING_FLOPS = {"bfloat16": 0, "float16": 4}
# These have one division an element, by a reciprocal, which tells the same; or as many as that.
PRECONDITIONED = ("yellowfin_diagonal", "yellowfin_compact", "yellowfin_float8")
DIVIDING = (
    *("qhadam", "qhadam_bytes", "lamb", "lamb_bytes"),
    *(*PRECONDITIONED, "adam", "preconditioned"),
)
_DIVISIONS: dict[tuple[str, ...], int] = {("advance", "adam"): 2}
SUMMING = ("yellowfin_robust", *PRECONDITIONED)
# They have states of eight bits.
CODED = ("yellowfin_compact", "yellowfin_float8", "qhadam_bytes", "lamb_bytes")
# Triton's operations do not tell: for sm_100 it pairs them and fills up with multiplications by 1.
# These are the elements that a program of its kernels takes at a time.
_TRITON_TILES = {"measure": 4096, "update": 2048, "update_state": 2048, "apply": 2048}
_TRITON_TILES["average"] = 2048
_TRITON_TILES |= dict.fromkeys(TANGENTS, 2048)


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
    variants: tuple[str, ...]  # what it serves: a rule and a form of the parameter, say
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

    @property
    def move_sums(self) -> bool:
        """Whether it leaves sums of the move for the tuner."""
        return any(variant.split()[0] in SUMMING for variant in self.variants)

    @property
    def divides(self) -> bool:
        """Whether its rule has a division and a root for each element."""
        return any(variant.split()[0] in DIVIDING for variant in self.variants)

    @property
    def divisions(self) -> int:
        """Of an element, for each root, where it has any."""
        return _DIVISIONS.get((self.function, *self.variants[:1]), 1)

    @property
    def widths(self) -> set[int]:
        """Bytes of an access where all columns lie on 16: of codes one for each of its elements."""
        if (self.backend, self.function, self.dtype) == ("CUDA", "average", "float32"):
            return {16, 8} if "bfloat16" in self.variants else {16}
        if not any(variant.split()[0] in CODED for variant in self.variants):
            return {16}
        if self.backend == "Triton":
            return {16, _TRITON_TILES[self.function] // self.block}
        return {16, 4 if self.dtype == "float32" else 8}

    def wide_loops(self) -> dict[str, Code]:
        """The 16-byte loop of each variant; the one with a master, a column more, loads more."""
        loops = self.code.wide_loops(min(self.widths))
        assert len(loops) == len(self.variants), (
            f"{self}: {len(loops)} loops with 16-byte accesses only, not {len(self.variants)}"
        )
        return dict(zip(self.variants, loops))

    def traffic(self, variant: str) -> Traffic:
        """What an element costs in the 16-byte loop, counted from the machine code."""
        loop = self.wide_loops()[variant]
        elements = self._elements(variant, loop)
        read, written = (sum(w * n for w, n in c.items()) for c in (loop.loads, loop.stores))
        return Traffic(read / elements, written / elements)

    def _elements(self, variant: str, loop: Code) -> float:
        """How many of them a thread takes in one round of a loop."""
        if self.backend == "Triton":
            # of the loads that Triton wrote, ptxas may have made several rounds
            unrolled = loop.loads[16] / self.ptx.count("ld.global.v4.b32")
            return _TRITON_TILES[self.function] / self.block * unrolled
        if self.divides:
            return len(loop.reciprocals) / self.divisions
        name, *form = variant.split()
        flops = _FLOPS[self.function, name]
        if form == ["rounded"] and self.function in ("update", "apply") and self.dtype:
            flops += _ROUNDING_FLOPS[self.dtype]
        return loop.flops / flops

    def __str__(self) -> str:
        arguments = ", ".join(filter(None, [self.dtype, *self.variants]))
        return f"{self.backend} {self.function}<{arguments}> sm_{self.arch}"
