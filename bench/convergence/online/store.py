"""Trainings on disk: a line of JSON each, written as it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bench.convergence.online.training import Cell, Outcome

DIGITS = 4  # significant


def read(path: Path) -> Iterator[tuple[Cell, Outcome]]:
    """What is stored; a last line without its end, which a kill may leave, is left out."""
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        row = {name: _number(value) for name, value in json.loads(line).items()}
        cell = {field.name: row.pop(field.name) for field in fields(Cell)}
        yield Cell(**cell), Outcome(**{field.name: row[field.name] for field in fields(Outcome)})


def write(path: Path, cell: Cell, outcome: Outcome, commit: str) -> None:
    """Adds a training, in the place of a line that a kill has left without its end."""
    row = {**asdict(cell), **asdict(outcome), "commit": commit}
    line = json.dumps({name: _short(value) for name, value in row.items()}, allow_nan=False)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode() + b"\n")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_number(each) for each in value)
    return math.inf if value is None else value
