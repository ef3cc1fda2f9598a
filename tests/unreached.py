"""Prints the lines of csrc/cuda, and of what it includes, that the check program never executes.

    python tests/unreached.py

It takes g++, its gcov and six minutes. docs/how-it-works/coverage.md says what it found. A line
of a template counts as executed if it is in one of its instances.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "cuda_on_cpu"))

import check_program
from check_program import CSRC, PLAIN, Workshop
from test_cuda_on_cpu import SUBJECTS

SEED = "1"


def counted_program(folder: Path) -> Path:
    """The program, which counts and is not optimized: else lines melt into one another."""
    check_program.FLAGS.append("--coverage")
    check_program.NOT_OPTIMIZED.extend(check_program.KERNELS)
    check_program.TIMEOUT = 3600
    program: Path = Workshop("g++", folder).program(PLAIN)
    return program


def counts(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """(file of csrc, line, how often), once for each object and instance of a template."""
    for data in sorted(folder.glob("*.gcda")):
        command = ["gcov", "--json-format", "--stdout", str(data)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        for report in filter(None, done.stdout.splitlines()):
            for file in json.loads(report)["files"]:
                path = Path(file["file"]).resolve()
                if path.is_relative_to(CSRC):
                    for line in file["lines"]:
                        yield path.relative_to(CSRC), line["line_number"], line["count"]


def main() -> None:
    executed: Counter[tuple[Path, int]] = Counter()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        program = counted_program(Path(name))
        for outcome in pool.map(lambda s: check_program.run(program, s, SEED), SUBJECTS):
            assert not outcome.failed, outcome.output
        for path, line, count in counts(Path(name)):
            if path.parts[0] != "cpu":
                executed[path, line] += count
    missed = sorted(place for place, count in executed.items() if not count)
    for path, line in missed:
        text = (CSRC / path).read_text().splitlines()[line - 1].strip()
        print(f"csrc/{path}:{line}: {text}")
    lines, never = (Counter(path.parent for path, _ in places) for places in (executed, missed))
    for folder in sorted(lines):
        print(f"{Path(CSRC.name, folder)}: {never[folder]} of {lines[folder]} lines")


if __name__ == "__main__":
    main()
