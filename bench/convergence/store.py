"""Trainings on disk: one file of JSON lines a task, made to be appended to, resumed and compared.

A line is written as a whole and reaches the disk before the next training starts. What a kill may
leave, a last line without its end, is ignored and then overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from bench.convergence.result import Key, TrainingResult


class Store:
    """The trainings of a folder.

    Args:
        folder: is made when the first training is added.

    Raises:
        ValueError: a complete line of a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._results: dict[Key, TrainingResult] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for line in _complete_lines(path):
                result = TrainingResult.parse(line)
                self._results[result.key] = result

    def __contains__(self, key: Key) -> bool:
        return key in self._results

    def __getitem__(self, key: Key) -> TrainingResult:
        return self._results[key]

    def __iter__(self) -> Iterator[TrainingResult]:
        return iter(self._results.values())

    def __len__(self) -> int:
        return len(self._results)

    def add(self, result: TrainingResult) -> None:
        """Keeps a training; one that was stored under the same key counts no more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(result.key.task)
        with path.open("r+b" if path.exists() else "xb") as file:
            file.seek(_end_of_lines(path))
            file.truncate()
            line = result.line()
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._results[result.key] = TrainingResult.parse(line)  # rounded, as a later run finds it

    def drop(self, tasks: Collection[str], optimizers: Collection[str]) -> int:
        """Forgets the trainings of these optimizers on these tasks; returns how many they were."""
        dropped = [
            key for key in self._results if key.task in tasks and key.optimizer in optimizers
        ]
        for key in dropped:
            del self._results[key]
        self.tidy(tasks)
        return len(dropped)

    def tidy(self, tasks: Iterable[str]) -> None:
        """Sorts the files of these tasks, so that versions of them compare well."""
        for task in tasks:
            keys = sorted(key for key in self._results if key.task == task)
            if not self._path(task).exists():
                continue
            fresh = self._path(task).with_suffix(".new")
            lines = (self._results[key].line() + "\n" for key in keys)
            fresh.write_text("".join(lines), encoding="utf-8")
            fresh.replace(self._path(task))

    def _path(self, task: str) -> Path:
        return self.folder / f"{task}.jsonl"


def _complete_lines(path: Path) -> list[str]:
    return path.read_bytes()[: _end_of_lines(path)].decode().splitlines()


def _end_of_lines(path: Path) -> int:
    """Where the last line that has its end ends."""
    return path.read_bytes().rfind(b"\n") + 1
