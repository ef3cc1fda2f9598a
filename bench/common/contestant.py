"""Who takes part in a benchmark: what the contestants of both have in common."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True, eq=False)
class Contestant:
    """An optimizer that takes part.

    Attributes:
        name: key on the command line and in the results.
        label: name in tables and pictures.
        ours: whether it is of this package.
        package: what has to be installed besides torch and this package.
    """

    name: str
    label: str
    ours: bool = False
    package: str | None = None

    @property
    def why_absent(self) -> str | None:
        """Why it cannot take part on this machine, or None if it can."""
        if self.package is None or find_spec(self.package):
            return None
        return f"{self.package} is not installed"
