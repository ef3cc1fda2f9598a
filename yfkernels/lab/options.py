"""How an option of a command is refused, by its name, its value and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class OptionError(ValueError):
    """An option does not fit the others.

    Args:
        option: its name in `Options`.
        value: what it is.
        fix: what to do about it.
    """

    def __init__(self, option: str, value: object, fix: str) -> None:
        super().__init__(f"Invalid {option} value: {value!r}; {fix}")
        self.option = option
        self.value = value
        self.fix = fix


def check_same(options: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raises OptionError if a run with other options has been saved."""
    for option, value in options.items():
        if value != saved.get(option):
            raise OptionError(
                option, value, f"the run to resume has {saved.get(option)!r}; give it the same"
            )
