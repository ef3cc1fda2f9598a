"""One part of `make gpu`: what runs it, how its commands are run, and how its end is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.common.limits import GRACE, Ended


@dataclass(frozen=True)
class PartOutcome:
    """How a part ended, in a line.

    Attributes:
        failed: fails `make gpu`.
        words: what came of it.
        ran: whether it looked at anything; if not, it is no success either.
    """

    failed: bool
    words: str
    ran: bool = True


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        limit: seconds until it is interrupted, whatever the others take.
        grace: seconds from then until it is killed.
        run: runs it, with its log, its limit and whether this is a dry run: then on this machine's
            CPU, whatever of it can be.
        default: whether `make gpu` without PART runs it.
    """

    limit: float
    run: Callable[[Path, float, bool], PartOutcome]
    default: bool = True
    grace: float = GRACE


def child_environment(**variables: str) -> Mapping[str, str]:
    """This process's environment, in which the package is found without being installed."""
    here = os.getcwd()
    path = [here, str(Path(here, "tests")), *filter(None, [os.environ.get("PYTHONPATH")])]
    unbuffered = {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **unbuffered, **variables}


def last_words(ended: Ended) -> str:
    """The last line that a command printed."""
    lines = [line for line in ended.output.splitlines() if line.strip()]
    words = lines[-1].strip() if lines else "no output"
    return f"stopped by its time limit after: {words}" if ended.timed_out else words
