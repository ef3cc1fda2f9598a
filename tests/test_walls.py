"""Imports between the rooms of the package run one way, and backends are reached by one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "yfkernels"
# Each room may import those after it; rooms of one line know nothing of each other.
FLOORS = (
    ("lab", "integrations"),
    ("asynchronous", "analysis"),
    ("optim", "schedules"),
    ("tuners",),
    ("curvature", "ops"),
    ("sharding",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# of the package as a whole: what everybody may import, and what stands above all rooms
EVERYBODYS = {"_checks", "_saving", "_version", "_warn"}
ABOVE = {"__init__", "__main__", "config"}
BACKENDS = ("native", "torch", "triton")

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


@cache
def imports(file: Path) -> list[str]:
    """Every module of this package that a file imports, wherever in it."""
    return list(_imports(file))


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("yfkernels"):
            assert node.module is not None
            for alias in node.names:
                inside = PACKAGE.parent / node.module.replace(".", "/") / alias.name
                is_module = inside.is_dir() or inside.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if is_module else node.module
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("yfkernels"))


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_run_downwards(file: Path) -> None:
    room = file.parts[0].removesuffix(".py")
    assert room in {*FLOOR, *EVERYBODYS, *ABOVE}, f"give {room} a floor"
    for module in imports(file):
        other = room_of(module)
        if other in EVERYBODYS or other == room or room in ABOVE:
            continue
        if room in FLOORS[0] and other in ABOVE:  # as a user does
            continue
        assert room in FLOOR, f"{file} imports {module}"
        assert other in FLOOR, f"{file} imports {module}"
        assert FLOOR[other] > FLOOR[room], f"{file} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_nobody_imports_a_backend_but_the_door(file: Path) -> None:
    own = file.parts[1] if file.parts[0] == "ops" and len(file.parts) > 2 else None
    for module in imports(file):
        parts = module.split(".")
        if len(parts) > 2 and parts[1] == "ops" and parts[2] in BACKENDS and parts[2] != own:
            assert file.stem in ("backend", "backends"), f"{file} imports {module}"


def test_only_the_command_imports_the_lab() -> None:
    users = {str(f) for f in FILES for m in imports(f) if room_of(m) in FLOORS[0]}
    assert {user for user in users if not user.startswith(FLOORS[0])} == {"__main__.py"}
