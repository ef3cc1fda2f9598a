"""Compiles every GPU kernel once a session; skips where the compilers are not at hand."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import from_nvcc
import from_triton
import pytest
from kernel import ARCHS, Kernel
from sass import find_tool


@pytest.fixture(scope="session")
def nvdisasm() -> str:
    tool = find_tool("nvdisasm")
    if tool is None:
        pytest.skip("no nvdisasm on PATH, beside nvcc or in Triton: machine code cannot be read")
    return tool


@pytest.fixture(scope="session")
def nvcc() -> str:
    tool = shutil.which("nvcc")
    if tool is None:
        pytest.skip("nvcc is not on PATH")
    return tool


@pytest.fixture(scope="session")
def cuda_kernels(
    nvcc: str, nvdisasm: str, tmp_path_factory: pytest.TempPathFactory
) -> list[Kernel]:
    return from_nvcc.compile_all(nvcc, nvdisasm, tmp_path_factory.mktemp("nvcc"))


@pytest.fixture(scope="session")
def triton_archs() -> tuple[int, ...]:
    """For which Triton compiles: one of ARCHS, another by another seed; it takes a minute each."""
    if os.environ.get("YFK_ALL_ARCHS"):
        return ARCHS
    return (ARCHS[int(os.environ["YFK_TEST_SEED"]) % len(ARCHS)],)


@pytest.fixture(scope="session")
def triton_kernels(
    nvdisasm: str, triton_archs: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory
) -> list[Kernel]:
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    folder = tmp_path_factory.mktemp("triton")
    return from_triton.compile_all(nvdisasm, folder, archs=triton_archs)


@pytest.fixture(params=["CUDA", "Triton"])
def kernels(request: pytest.FixtureRequest) -> list[Kernel]:
    """All kernels of one backend."""
    name = {"CUDA": "cuda_kernels", "Triton": "triton_kernels"}[request.param]
    found: list[Kernel] = request.getfixturevalue(name)
    return found
