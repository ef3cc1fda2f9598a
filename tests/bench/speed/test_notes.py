"""What the benchmarks' notes and the pages cite is there, and no measurement is kept unread."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.common.results import RESULTS

ROOT = RESULTS.parents[1]
NOTES = [ROOT / "bench/NOTES.md", ROOT / "bench/convergence/NOTES.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *NOTES]


@pytest.mark.parametrize("page", NOTES, ids=lambda page: str(page.relative_to(ROOT)))
def test_cited_paths_exist(page: Path) -> None:
    cited = re.findall(r"`((?:results|speed|tests|csrc|docs|yfkernels)/[^`<]+)`", page.read_text())
    for path in cited:
        if "TASK" not in path:
            assert (RESULTS.parent / path).exists() or (ROOT / path).exists(), path


def test_every_result_is_cited() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for kept in RESULTS.iterdir():
        if not kept.name.startswith("cuda-"):  # of this machine
            name = re.sub(r"-\d$", "-1", kept.name)  # the notes name the first of several runs
            assert f"results/{name}" in text, kept.name
