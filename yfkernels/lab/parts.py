"""The finished parts of a long run, a line of JSON each: a crash loses only what is under way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yfkernels.lab.options import OptionError, check_same

Key = tuple[str | int, ...]


class Parts:
    """A file of parts; its first line has the options of the run.

    Args:
        path: of the file.
        options: that determine the parts, as JSON has them: numbers, strings, lists.
        resume: keep the parts that the file has; otherwise it begins anew.

    Raises:
        OptionError: the parts to keep are of a run with other options, or there are none.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], *, resume: bool) -> None:
        self._path = path
        self._parts: dict[Key, Any] = {}
        head = _line({"options": dict(options)})
        if not resume:
            path.write_text(head, encoding="utf-8")
            return
        if not path.is_file():
            raise OptionError("resume", True, f"there is no {path}; leave it out")
        # A last line without its end is what a crash has left.
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        check_same(json.loads(head)["options"], whole[0]["options"] if whole else {})
        self._parts = {tuple(each["key"]): each["part"] for each in whole[1:]}
        path.write_text("".join(line for line in lines if line.endswith("\n")), encoding="utf-8")

    def __contains__(self, key: Key) -> bool:
        return key in self._parts

    def __getitem__(self, key: Key) -> Any:
        return self._parts[key]

    def add(self, key: Key, part: Any) -> None:
        """Keeps what is made of dicts, lists, strings and numbers."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"key": key, "part": part}))
        self._parts[key] = part


def _line(value: Any) -> str:
    return json.dumps(value) + "\n"
