"""The tiny task and its contestants in the registries, for the length of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_tasks
import torch

pytest.importorskip("sklearn")
pytest.importorskip("typer")
pytest.importorskip("prodigyopt")
pytest.importorskip("schedulefree")

from bench.convergence.contestants import CONTESTANTS
from bench.convergence.outside import register
from bench.convergence.tasks import TASKS


@pytest.fixture(autouse=True)
def one_thread(threads: None) -> None:
    """As the benchmark has it."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = [(registry, dict(registry)) for registry in (CONTESTANTS, TASKS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.fixture
def tiny(registries: None) -> None:
    """Adds the tiny task."""
    register(str(tiny_tasks.__file__))
