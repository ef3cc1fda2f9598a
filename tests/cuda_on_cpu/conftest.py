"""What the tests here share: objects that are compiled once, by whichever process is first."""

from __future__ import annotations

import os
import shutil

import pytest
from check_program import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    name = os.environ.get("CXX") or "g++"
    compiler = shutil.which(name)
    if compiler is None:
        pytest.skip(f"no C++ compiler: {name} is not on PATH")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all processes that share the tests
    return Workshop(compiler, base / "cuda_on_cpu")
