"""Where the tests run (backend, device) and fresh random input that can be repeated."""

from __future__ import annotations

import gc
import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this once, when it is first imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from support.cases import BACKENDS, Site, why_unusable  # after the environment is set
from support.fast import is_slow_path, leave_out_slow
from support.interpreter import patch_once
from support.processes import Processes
from support.repeats import leave_out_repeats
from support.sharing import urgency

SEED = int(os.environ.get("YFK_TEST_SEED") or secrets.randbits(32))
os.environ["YFK_TEST_SEED"] = str(SEED)  # one for all processes that share the tests
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
if torch.cuda.is_available():
    # Models are trained side by side and compared to the bit.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False

if why_unusable(Site("triton", "cpu")) is None:
    patch_once()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="a minute of tests (support/fast.py)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel_free: left out under Triton's slow interpreter")
    if processes := len(config.getoption("tx", None) or ()):
        # Read by the processes that pytest-xdist starts. More threads than cores wait for each
        # other by spinning; tests about threads ask for several themselves.
        threads = max(1, (os.cpu_count() or 1) // processes)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """See support/scheduling.py, which is for those who have pytest-xdist."""
    from support.scheduling import Scheduling

    return Scheduling(config, log)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("fast") and is_slow_path(collection_path) else None


def pytest_collection_finish() -> None:
    """Thousands of tests are objects that no garbage collection in a test need look at again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out_repeats(config, items)
    if config.getoption("fast"):
        leave_out_slow(config, items)
    if torch.cuda.is_available():
        items.sort(key=lambda item: urgency(item.nodeid))
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
            Site(backend, device),
            id=f"{backend}-{device}",
            marks=[pytest.mark.cuda] if device == "cuda" else [],
        )
        for device in DEVICES
        for backend in BACKENDS
    ]
)
def site(request: pytest.FixtureRequest) -> Site:
    """Every backend on every device here; one that is not usable skips with its reason."""
    if reason := why_unusable(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's thread count back after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair() -> Iterator[Processes]:
    """Two processes for checks that take two; started when first called."""
    pair = Processes()
    yield pair
    pair.stop()


@pytest.fixture(scope="session")
def four() -> Iterator[Processes]:
    """Four, for those whose shards have to be uneven and empty at once, or a mesh."""
    four = Processes(4)
    yield four
    four.stop()
