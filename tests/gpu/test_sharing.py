"""Tests that fill the memory of a device wait for each other, and give it back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.sharing import LARGE, scope_of, urgency

ROOT = Path(__file__).resolve().parents[2]


def test_large_ones_are_in_one_scope() -> None:
    """By the names that pytest gives them: a test that was renamed would run beside the others."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    files = [name.partition("::")[0] for name in LARGE]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    nodes = [line for line in done.stdout.splitlines() if "::" in line]
    large = [node for node in nodes if "the_check_itself" not in node]
    assert {node.partition("[")[0] for node in large} == set(LARGE)
    assert len({scope_of(node) for node in large}) == 1
    assert len({scope_of(node) for node in nodes}) == 1 + len(nodes) - len(large)


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("tests/cuda/test_static.py::test_a", "tests/cuda"),
        ("tests/sharding/test_zero.py::test_a[x]", "tests/sharding"),
        ("tests/gpu/test_replicas.py::test_a[x]", "tests/gpu/test_replicas.py::test_a[x]"),
    ],
)
def test_scopes_of_others(nodeid: str, scope: str) -> None:
    assert scope_of(nodeid) == scope


def test_what_says_most_runs_first() -> None:
    nodes = [
        "tests/gpu/test_two_streams.py::test_two_streams[native-exact]",
        "tests/optim/test_yellowfin_cuda.py::test_launches[x]",
        "tests/optim/test_state.py::test_a[native-cuda-QHM]",
        "tests/ops/test_triton_updates.py::test_a[x]",
        "tests/optim/test_state.py::test_a[triton-cuda-QHM]",
        "tests/optim/test_state.py::test_a[torch-cuda-QHM]",
    ]
    assert sorted(reversed(nodes), key=urgency)[-4:] == nodes[-4:]
    assert {urgency(node) for node in nodes[:2]} == {0}
