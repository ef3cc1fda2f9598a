"""The updates of models of more chunks than programs, which are compiled for pieces of a chunk's
size: what holds for those of smaller models holds for them."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import from_triton
import pytest
import test_static
import test_triton_ptx
from kernel import Kernel

# update for five rules and apply for three, of float32 and of bfloat16 with a master; the largest
# rule of each in three other forms; advance and own for three families
WHOLE_KERNELS = 2 * (5 + 3) + 3 * (1 + 1) + (3 + 3)


@pytest.fixture(scope="module")
def whole(
    nvdisasm: str, triton_archs: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory
) -> list[Kernel]:
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    folder = tmp_path_factory.mktemp("whole")
    return from_triton.compile_all(nvdisasm, folder, "whole", archs=triton_archs)


def test_all_are_here(whole: list[Kernel], triton_archs: tuple[int, ...]) -> None:
    assert Counter(kernel.arch for kernel in whole) == dict.fromkeys(triton_archs, WHOLE_KERNELS)


@pytest.mark.parametrize(
    "check",
    [
        test_static.test_no_kernel_spills_registers,
        test_static.test_enough_threads_fit_a_multiprocessor,
        test_static.test_element_loops_hold_no_doubles_no_calls_and_no_spills,
        test_static.test_only_plain_accesses_of_global_memory,
        test_static.test_bytes_of_an_element,
        test_triton_ptx.test_every_access_to_a_whole_tile_is_16_bytes,
        test_triton_ptx.test_no_doubles_and_no_divisions_for_each_element,
    ],
    ids=lambda check: check.__name__.removeprefix("test_"),
)
def test_they_keep(check: object, whole: list[Kernel]) -> None:
    assert callable(check)
    check(whole)
