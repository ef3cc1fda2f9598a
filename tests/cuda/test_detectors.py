"""Each check of test_static.py can fail: it sees the fault in a kernel that was given one."""

from __future__ import annotations

from pathlib import Path

import pytest
from from_nvcc import compile_source
from kernel import ARCHS, Kernel
from sass import Function

FAULTS = Path(__file__).with_name("faults.cu")


@pytest.fixture(scope="module")
def all_faults(
    nvcc: str, nvdisasm: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], Kernel]:
    kernels = compile_source(nvcc, nvdisasm, FAULTS, tmp_path_factory.mktemp("faults"))
    return {(kernel.function, kernel.arch): kernel for kernel in kernels}


@pytest.fixture(params=ARCHS, ids=lambda arch: f"sm_{arch}")
def faults(
    request: pytest.FixtureRequest, all_faults: dict[tuple[str, int], Kernel]
) -> dict[str, Kernel]:
    """By name, for one architecture."""
    found = {name: kernel for (name, arch), kernel in all_faults.items() if arch == request.param}
    if not found:
        pytest.skip(f"this nvcc knows no sm_{request.param}")
    return found


def test_doubles_outside_of_the_elements_are_allowed(faults: dict[str, Kernel]) -> None:
    code = faults["clean"].code
    assert code.doubles
    assert code.divisions
    assert code.wide_loops()
    for loop in code.element_loops:
        assert not loop.doubles
        assert not loop.divisions


def test_doubles_are_seen(faults: dict[str, Kernel]) -> None:
    assert all(loop.doubles for loop in faults["double"].code.element_loops)
    assert faults["double"].code.element_loops


@pytest.mark.parametrize("name", ["division", "root"])
def test_divisions_and_roots_are_seen(name: str, faults: dict[str, Kernel]) -> None:
    assert any(loop.divisions for loop in faults[name].code.element_loops)
    assert any(loop.calls for loop in faults[name].code.element_loops)


def test_loops_over_doubles_run_over_no_elements(faults: dict[str, Kernel]) -> None:
    assert faults["slots"].code.doubles
    assert faults["slots"].code.element_loops == []


def test_narrow_accesses_are_seen(faults: dict[str, Kernel]) -> None:
    code = faults["scalar"].code
    assert code.element_loops
    assert not code.wide_loops()
    assert all(set(loop.loads) == {4} for loop in code.element_loops)


def test_spills_are_seen(faults: dict[str, Kernel]) -> None:
    assert faults["spill"].registers <= 32
    assert faults["spill"].spilled
    assert any(loop.local for loop in faults["spill"].code.element_loops)


def test_generic_accesses_are_seen(faults: dict[str, Kernel]) -> None:
    assert faults["generic"].code.uncounted
    assert not faults["clean"].code.uncounted


def test_a_column_too_many_is_seen(faults: dict[str, Kernel]) -> None:
    assert faults["measure"].traffic("sketch").read == 8


def test_loops_are_found_through_their_jumps() -> None:
    """A cold block of the inner loop that ptxas has laid after the whole function counts."""
    code = Function.parse(
        """
.L_x_0:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_3) ;
.L_x_2:
        /*0030*/              @!P1 BRA P2, `(.L_x_1) ;
        /*0040*/               @P3 CALL.REL.NOINC `(.L_x_4) ;
        /*0050*/                   BRA `(.L_x_0) ;
.L_x_4:
        /*0060*/                   EXIT ;
.L_x_3:
        /*0070*/                   DADD R4, R4, R6 ;
        /*0080*/                   BRA `(.L_x_2) ;
"""
    )
    (loop,) = code.element_loops
    assert [each.opcode for each in loop.instructions] == ["LDG.E.128", "BRA", "BRA", "DADD", "BRA"]
    assert loop.loads == {16: 1}
    assert loop.doubles
