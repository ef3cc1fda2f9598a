"""What the tests here share: objects that are compiled once."""

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
    return Workshop(compiler, tmp_path_factory.mktemp("cuda_on_cpu"))
