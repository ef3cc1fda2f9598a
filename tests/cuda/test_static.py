"""What the compilers can prove about the CUDA kernels where there is no GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ahead import SOURCES, Code, Compiled, Loop, compile_all, source_flags

KERNELS = 6 + 3 + 2 + 1  # measure by dtype and variance, apply by dtype, tune by variance, write
ELEMENT_KERNELS = ["yellowfin_measure_kernel", "yellowfin_apply_kernel"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on PATH")
    return compile_all(nvcc, tmp_path_factory.mktemp("nvcc"))


def wide_loops(code: Code) -> list[Loop]:
    """The loops that run while every column lies on 16 bytes: the ones that set the speed."""
    return [loop for loop in code.element_loops() if not loop.narrow]


def bytes_read(code: Code, averages: bool) -> int:
    """Bytes of g, gbar, p, v and the float32 master that an element costs, by kernel."""
    element = 4 if code.kernel.dtype == "float32" else 2
    gbar = 4 * averages
    if code.kernel.function == "yellowfin_measure_kernel":
        return element + gbar
    master = 0 if code.kernel.dtype == "float32" else 4
    return element + element + master + 4 + gbar


def bytes_written(code: Code, averages: bool) -> int:
    """The same without the gradient, which is only read."""
    if code.kernel.function == "yellowfin_measure_kernel":
        return 0
    return bytes_read(code, averages) - (4 if code.kernel.dtype == "float32" else 2)


def test_no_kernel_spills_registers(compiled: Compiled) -> None:
    assert len(compiled.resources) == KERNELS * len(compiled.archs)
    spilling = [r for r in compiled.resources if r.stack or r.spill_stores or r.spill_loads]
    assert not spilling


def test_1024_threads_fit_a_multiprocessor(compiled: Compiled) -> None:
    """With 64 registers each; that many threads keep enough loads in flight."""
    kernels = [r for r in compiled.resources if r.kernel.function in ELEMENT_KERNELS]
    assert [r for r in kernels if r.registers > 64] == []


@pytest.mark.parametrize("function", ELEMENT_KERNELS)
def test_element_loops_hold_no_doubles_and_no_divisions(compiled: Compiled, function: str) -> None:
    for code in compiled.of(function):
        loops = code.element_loops()
        assert loops, code.kernel
        for loop in loops:
            assert loop.count(r"\.f64") == 0, f"{code.kernel}\n{loop.text}"
            assert loop.count(r"\b(div|rem|rcp|sqrt|rsqrt)\.") == 0, f"{code.kernel}\n{loop.text}"
            assert loop.count(r"\b(ld|st)\.local") == 0, f"{code.kernel}\n{loop.text}"


@pytest.mark.parametrize("function", ELEMENT_KERNELS)
def test_no_generic_access(compiled: Compiled, function: str) -> None:
    """Addresses come out of the table: the compiler must still know that they are global."""
    for code in compiled.of(function):
        generic = Loop(code.text).count(r"\b(ld|st)(\.v[24])?\.[bfsu]\d")
        assert generic == 0, code.kernel


@pytest.mark.parametrize("function", ELEMENT_KERNELS)
def test_bytes_of_an_element(compiled: Compiled, function: str) -> None:
    """16-byte accesses only, several in flight, and no more of them than the columns need."""
    for code in compiled.of(function):
        measures = function == "yellowfin_measure_kernel"
        variants = [not code.kernel.flag] if measures else [True, False]
        loops = sorted(wide_loops(code), key=lambda loop: -loop.wide_loads)
        assert len(loops) == len(variants), code.kernel
        for loop, averages in zip(loops, variants, strict=True):
            elements, left = divmod(16 * loop.wide_loads, bytes_read(code, averages))
            vector = 4 if code.kernel.dtype == "float32" else 8
            assert left == 0, (code.kernel, averages, loop.wide_loads)
            assert elements % vector == 0, (code.kernel, averages, loop.wide_loads)
            assert 16 * loop.wide_stores == elements * bytes_written(code, averages), code.kernel
            assert loop.wide_loads >= 4, code.kernel


def test_sketches_leave_in_16_bytes(compiled: Compiled) -> None:
    for code in compiled.of("yellowfin_measure_kernel"):
        vector = 4 if code.kernel.dtype == "float32" else 8
        assert Loop(code.text).wide_stores == (vector // 4 if code.kernel.flag else 0)


def test_the_tuner_is_not_contracted() -> None:
    """tuner.h promises the host's bits."""
    assert source_flags(Path("tune.cu")) == ["--fmad=false"]
    assert {source.name for source in SOURCES if source_flags(source)} == {"tune.cu"}
