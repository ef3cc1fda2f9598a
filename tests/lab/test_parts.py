"""The parts of a long run that an interrupt leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from yfkernels.lab.options import OptionError
from yfkernels.lab.parts import Parts

OPTIONS = {"epochs": 2, "sizes": (1, 2)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    parts = Parts(tmp_path / "parts.jsonl", OPTIONS, resume=False)
    parts.add(("a", 1), [0.1, float("inf")])
    parts.add(("b", 2), {"x": None})
    return tmp_path / "parts.jsonl"


def test_parts_are_there_again(path: Path) -> None:
    parts = Parts(path, OPTIONS, resume=True)
    assert ("a", 1) in parts
    assert ("a", 2) not in parts
    assert parts["a", 1] == [0.1, float("inf")]
    assert parts["b", 2] == {"x": None}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_off_by_a_crash_is_made_again(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    parts = Parts(path, OPTIONS, resume=True)
    assert ("a", 1) in parts
    assert ("b", 2) not in parts
    parts.add(("b", 2), {"x": None})
    assert path.read_bytes() == whole


def test_without_resume_it_begins_anew(path: Path) -> None:
    assert ("a", 1) not in Parts(path, OPTIONS, resume=False)
    assert ("a", 1) not in Parts(path, OPTIONS, resume=True)


def test_other_options_are_refused(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(OptionError, match=r"Invalid epochs value: 3; the run to resume has 2"):
        Parts(path, {**OPTIONS, "epochs": 3}, resume=True)
    assert path.read_bytes() == before


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"there is no .*; leave it out"):
        Parts(tmp_path / "parts.jsonl", OPTIONS, resume=True)
