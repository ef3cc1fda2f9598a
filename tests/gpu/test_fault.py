"""A fault of the device costs its own test: the other workers, and a replacement, run the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("xdist")
TESTS = Path(__file__).resolve().parents[1]
# Stands for torch, and is found before it: a device that a fault puts out of use for its process.
TORCH = """
class cuda:
    broken = False

    @classmethod
    def synchronize(cls):
        if cls.broken:
            raise RuntimeError("an illegal memory access was encountered")
"""
CONFTEST = """
def pytest_xdist_make_scheduler(config, log):
    from support.scheduling import Scheduling

    return Scheduling(config, log)
"""
TOY = """
import os

import pytest
import torch


@pytest.mark.parametrize("number", range(40))
def test_one(number):
    with open("ran", "a") as file:
        file.write(f"{number}\\n")
    torch.cuda.synchronize()
    if number in FAULTS:
        torch.cuda.broken = True
        torch.cuda.synchronize()
    if number in ENDS:
        os._exit(1)
"""


def run(folder: Path, workers: int, faults: set[int], ends: set[int]) -> tuple[str, Counter[int]]:
    """Output of a run of the toy, and how often each test was started."""
    (folder / "torch.py").write_text(TORCH)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_toy.py").write_text(f"FAULTS = {faults}\nENDS = {ends}\n{TOY}")
    (folder / "pytest.ini").write_text("[pytest]\n")
    path = os.pathsep.join([str(folder), str(TESTS)])
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    done = subprocess.run(
        [*command, "-p", "support.on_a_device", "-n", str(workers)],
        cwd=folder,
        env={**env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    ran = Counter(map(int, (folder / "ran").read_text().split()))
    assert set(ran) == set(range(40))
    return done.stdout, ran


def failures(output: str) -> Counter[str]:
    """How often each test is in the summary."""
    return Counter(line.split()[1] for line in output.splitlines() if line.startswith("FAILED "))


@pytest.mark.parametrize(("workers", "fault"), [(2, 7), (1, 38)])
def test_a_fault_is_reported_once(workers: int, fault: int, tmp_path: Path) -> None:
    """And every test is run, once; the one that the worker would have run next is named as well."""
    output, ran = run(tmp_path, workers, {fault}, set())
    assert set(ran.values()) == {1}
    reported = failures(output)
    assert reported.pop(f"test_toy.py::test_one[{fault}]") == 1
    assert list(reported.values()) == [1]
    assert " 39 passed" in output


def test_a_test_that_ends_its_worker_is_tried_twice(tmp_path: Path) -> None:
    output, ran = run(tmp_path, 2, {30}, {5})
    assert ran.pop(5) == 2
    assert set(ran.values()) == {1}
    assert "test_toy.py::test_one[30]" in failures(output)
