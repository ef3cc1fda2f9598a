"""What the compilers can prove about the GPU kernels where there is no GPU, from machine code."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from from_nvcc import SOURCES, known_archs, source_flags
from kernel import ARCHS, Kernel, Traffic

HALVES = ("bfloat16", "float16")

# measure by dtype and variance, apply by dtype (Triton: and variance), tune by variance (Triton:
# and by log_smooth), write_words
CUDA_KERNELS = 6 + 3 + 2 + 1
TRITON_KERNELS = 6 + 6 + 3

# Bytes of an element: g, and gbar with the exact variance | g p v (gbar) and, for the halves, the
# float32 master; all of these but g are written.
TRAFFIC: dict[tuple[str, str, str | None], Traffic] = {
    ("yellowfin_measure", "exact", "float32"): Traffic(read=8, written=0),
    ("yellowfin_measure", "sketch", "float32"): Traffic(read=4, written=0),
    ("yellowfin_apply", "exact", "float32"): Traffic(read=16, written=12),
    ("yellowfin_apply", "sketch", "float32"): Traffic(read=12, written=8),
}
for half in HALVES:
    TRAFFIC |= {
        ("yellowfin_measure", "exact", half): Traffic(read=6, written=0),
        ("yellowfin_measure", "sketch", half): Traffic(read=2, written=0),
        ("yellowfin_apply", "exact", half): Traffic(read=16, written=14),
        ("yellowfin_apply", "sketch", half): Traffic(read=12, written=10),
    }


def elementwise(kernels: list[Kernel]) -> list[Kernel]:
    found = [kernel for kernel in kernels if kernel.elementwise]
    assert found
    return found


def test_every_kernel_is_here_for_every_architecture(nvcc: str, cuda_kernels: list[Kernel]) -> None:
    counts = Counter(kernel.arch for kernel in cuda_kernels)
    assert counts == dict.fromkeys(known_archs(nvcc), CUDA_KERNELS)


def test_every_triton_kernel_is_here(triton_kernels: list[Kernel]) -> None:
    counts = Counter(kernel.arch for kernel in triton_kernels)
    assert counts == dict.fromkeys(ARCHS, TRITON_KERNELS)


def test_no_kernel_spills_registers(kernels: list[Kernel]) -> None:
    assert [str(kernel) for kernel in kernels if kernel.spilled] == []
    assert {str(kernel): kernel.code.local for kernel in kernels if kernel.code.local} == {}


def test_enough_threads_fit_a_multiprocessor(kernels: list[Kernel]) -> None:
    """So many that their loads hide the memory's latency; every kernel fits at all."""
    enough = {
        ("CUDA", "yellowfin_measure"): 1024,
        ("CUDA", "yellowfin_apply"): 1024,
        ("Triton", "yellowfin_measure"): 512,  # two slots for each multiprocessor
        ("Triton", "yellowfin_apply"): 768,
    }
    few = {
        str(kernel): kernel.resident
        for kernel in kernels
        if kernel.resident < enough.get((kernel.backend, kernel.function), kernel.block)
    }
    assert few == {}


def test_element_loops_hold_no_doubles_no_divisions_and_no_spills(kernels: list[Kernel]) -> None:
    for kernel in elementwise(kernels):
        loops = kernel.code.element_loops
        assert len(loops) > len(kernel.variants), f"{kernel}: ragged ends need a loop as well"
        for loop in loops:
            assert not loop.doubles, f"{kernel}\n{loop}"
            assert not loop.divisions, f"{kernel}\n{loop}"
            assert not loop.local, f"{kernel}\n{loop}"
        # sums go on, and coefficients come, in float64, once a chunk: it is there to be found
        assert kernel.code.doubles, kernel


def test_only_plain_accesses_of_global_memory(kernels: list[Kernel]) -> None:
    """Addresses come out of the table: the compiler must still know that they are global."""
    for kernel in elementwise(kernels):
        assert not kernel.code.uncounted, kernel


def test_bytes_of_an_element(kernels: list[Kernel]) -> None:
    """16-byte accesses only, and no more of them than the columns need."""
    for kernel in elementwise(kernels):
        for variant, loop in kernel.wide_loops().items():
            assert {*loop.loads, *loop.stores} == {16}, f"{kernel}\n{loop}"
            expected = TRAFFIC[kernel.function, variant, kernel.dtype]
            assert kernel.traffic(variant) == expected, f"{kernel} {variant}\n{loop}"


def test_loads_in_flight(cuda_kernels: list[Kernel]) -> None:
    for kernel in elementwise(cuda_kernels):
        for variant, loop in kernel.wide_loops().items():
            assert loop.loads[16] >= 4, (str(kernel), variant)


def test_sketches_leave_in_16_bytes(cuda_kernels: list[Kernel]) -> None:
    for kernel in cuda_kernels:
        if kernel.function == "yellowfin_measure":
            lanes = 8 if kernel.dtype in HALVES else 4
            expected = lanes // 4 if kernel.variants == ("sketch",) else 0
            assert kernel.code.stores[16] == expected, kernel


def test_the_tuner_is_not_contracted() -> None:
    """tuner.h promises the host's bits."""
    assert source_flags(Path("tune.cu")) == ["--fmad=false"]
    assert {source.name for source in SOURCES if source_flags(source)} == {"tune.cu"}
