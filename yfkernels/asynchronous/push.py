"""What a worker and the server say to each other: versions, pulls, results of pushes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from torch import Tensor


class Version(NamedTuple):
    """Which parameters a worker has: a token of the server's run, and the pushes applied in it."""

    run: int
    number: int


class Pulled(NamedTuple):
    """What a worker pulls: the version, to be given back with the gradient; flat parameters."""

    version: Version
    parameters: tuple[Tensor, ...]


class Refusal(str, Enum):
    """Why a push was refused."""

    OTHER_RUN = "its version is from another run, or from before a resume"
    FUTURE = "its version is newer than the server's"
    STALE = "it is older than max_staleness"
    LEASE = "its lease is not open: answered, lent again, or never lent"
    FORM = "its number of tensors, a size or a dtype differs from the server's"
    NONFINITE = "it has an infinity or NaN"
    RULE = "the staleness rule gives it no weight"


@dataclass(frozen=True)
class PushResult:
    """What became of a push.

    Attributes:
        applied: whether the optimizer took a step.
        staleness: pushes applied since the pull; of no meaning for a version of another run.
        refusal: why it was refused; None if it was applied.
    """

    applied: bool
    staleness: int
    refusal: Refusal | None = None
