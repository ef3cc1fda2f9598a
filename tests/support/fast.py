"""What `pytest --fast` runs: the package itself, on native and torch, in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cases import Site

TESTS = Path(__file__).resolve().parents[1]
# These compile, start processes, train, or run under Triton's interpreter.
SLOW = (
    "asynchronous/engines/test_gloo.py",
    "asynchronous/engines/test_rendezvous.py",
    "bench",
    "cuda",
    "cuda_on_cpu",
    "frameworks",
    "gpu",
    "lab",
    "ops/test_triton_*.py",
    "programs",
    "sharding",
    "test_build.py",
    "test_examples.py",
    "ops/test_selected_on_a_device.py",
    "optim/test_captured_memory.py",
)
# Of these the other tests of their files say most.
SLOW_TESTS = (
    "test_all_sizes_at_once",
    "test_an_element_alone_moves_by_its_sign",
    "test_any_number_of_threads",
    "test_extension_missing_or_broken",
    "test_fake_tensors",
    "test_follows_the_oracle_with_a_hyper_lr_that_adapts",
    "test_long_trace",
    "test_many_small_tensors",
    "test_preset",
    "test_reproduces_the_published_trace",
    "test_same_bits_on_any_number_of_threads",
    "test_state_follows_the_backend",
    "test_the_same_on_any_number_of_threads",
    "test_threads_changed_between_steps",
    "test_two_hundred_steps_follow_the_oracle",
)


def is_slow_path(path: Path) -> bool:
    """Whether nothing of a file or folder is run."""
    return any(path.relative_to(TESTS).match(pattern) for pattern in SLOW)


def leave_out_slow(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the tests that are slow in files that are not."""
    slow = {item for item in items if is_slow(item)}
    config.hook.pytest_deselected(items=list(slow))
    items[:] = [item for item in items if item not in slow]


def is_slow(test: pytest.Item) -> bool:
    if not isinstance(test, pytest.Function):
        return False
    parameters = test.callspec.params if hasattr(test, "callspec") else {}
    interpreted = "triton" in parameters.values() or any(
        isinstance(p, Site) and p.interpreted for p in parameters.values()
    )
    return interpreted or "pair" in test.fixturenames or test.originalname in SLOW_TESTS
