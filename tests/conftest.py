"""Where the tests run (backend, device) and fresh random input that can be repeated."""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this once, when it is first imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from cases import BACKENDS, Target, why_unusable  # after the environment is set

SEED = int(os.environ.get("YFK_TEST_SEED") or secrets.randbits(32))
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel_free: left out under Triton's slow interpreter")
    # NumPy, under the interpreter, warns of the infinities that the tests put in on purpose.
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton.runtime.interpreter")


def pytest_report_header() -> str:
    return f"random input: YFK_TEST_SEED={SEED} repeats this run"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        report.sections.append(("random input", f"YFK_TEST_SEED={SEED} repeats this"))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """New numbers in every run, and in every test of a run."""
    return np.random.default_rng([SEED, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture(
    params=[
        pytest.param(
            Target(backend, device),
            id=f"{backend}-{device}",
            marks=[pytest.mark.cuda] if device == "cuda" else [],
        )
        for device in DEVICES
        for backend in BACKENDS
    ]
)
def target(request: pytest.FixtureRequest) -> Target:
    """Every backend on every device here; one that is not usable skips with its reason."""
    reason = why_unusable(request.param)
    if request.param.interpreted and request.node.get_closest_marker("kernel_free"):
        reason = reason or "independent of the kernels: not repeated in the slow interpreter"
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's thread count back after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
