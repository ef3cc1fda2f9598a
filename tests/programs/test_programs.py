"""No order of calls makes a difference that it must not make: random programs, in any number.

Every run has other programs; a fault is printed with the shortest one that has it, ready to be
pasted. With YFK_PROGRAMS=2000 there are so many, and the harness has to find planted faults too.
"""

from __future__ import annotations

import os
import re

import pytest
from programs import sanitizer
from programs.mutants import MUTANTS, Dies, LoadsOnce
from programs.runner import hunt
from support.cases import Site, why_unusable

MANY = "YFK_PROGRAMS" in os.environ
SEED = os.environ["YFK_TEST_SEED"]
COUNT = int(os.environ.get("YFK_PROGRAMS", "250"))
PARTS = 4  # that processes may share


@pytest.mark.parametrize("part", range(PARTS))
def test_native_programs(part: int) -> None:
    share = COUNT * 9 // 10 // PARTS
    assert_none_fails("NATIVE", first=part * share, count=share)


def test_programs_in_plain_torch() -> None:
    assert_none_fails("PLAIN", count=COUNT // 10)


def test_interpreted_programs() -> None:
    if reason := why_unusable(Site("triton", "cpu")):
        pytest.skip(reason)
    assert_none_fails("INTERPRETED", count=max(1, COUNT // 100))


def test_the_harness_makes_no_difference() -> None:
    """torch's own optimizers, which keep all that counts where everyone sees it."""
    assert_none_fails("TORCH", count=COUNT // 10)


@pytest.mark.skipif(not MANY, reason="YFK_PROGRAMS=250 runs these: some minutes")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_faults_are_found(mutant: type) -> None:
    found = hunt("--pairs", mutant.__name__, "--seed", SEED, "--count", "150")
    assert found.returncode == 1, found.stdout
    program = re.search(r"replay\(\n(.*?)\n\)", found.stdout, re.DOTALL)
    assert program is not None, found.stdout
    actions = len(program[1].splitlines()) - 2
    assert actions <= 3, found.stdout
    said = {LoadsOnce: "was not saved by", Dies: "died with signal 11"}
    assert said.get(mutant, "") in found.stdout


def test_native_programs_keep_to_their_memory() -> None:
    """With the compiled code under AddressSanitizer."""
    if reason := sanitizer.missing():
        pytest.skip(reason)
    module = sanitizer.build()
    count = str(COUNT * 2 // 5)
    found = sanitizer.hunt(module, "--seed", SEED, "--first", str(COUNT), "--count", count)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr[-8000:]}"


def assert_none_fails(pairs: str, *, first: int = 0, count: int) -> None:
    numbers = ("--first", str(first), "--count", str(count), "--seed", SEED)
    found = hunt("--pairs", pairs, *numbers)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr[-8000:]}"
