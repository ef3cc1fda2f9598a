"""Every example in a docstring of the package does what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import yfkernels

ROOT = Path(__file__).resolve().parents[1]
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "yfkernels").rglob("*.py"))
    if ">>>" in path.read_text()
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    known = {"torch": torch, "yfkernels": yfkernels, **vars(module)}
    runner = doctest.DocTestRunner()
    tests = [test for test in doctest.DocTestFinder().find(module, globs=known) if test.examples]
    assert tests, "the examples are in no docstring that doctest finds"
    for test in tests:
        report: list[str] = []
        runner.run(test, out=report.append)
        assert not runner.summarize(verbose=False).failed, "".join(report)
