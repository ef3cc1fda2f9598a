"""What a worker and the server say to each other: versions, pulls, pushes and their results."""

from __future__ import annotations

import math
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


class Request(NamedTuple):
    """What a worker says when it asks for work, in most cases along with a gradient.

    Attributes:
        worker: its name.
        version: of the parameters at which the gradient was taken; None without one.
        lease: number of the lease of the gradient's batch; None without one.
        loss: of that batch; NaN without one.
    """

    worker: str
    version: Version | None = None
    lease: int | None = None
    loss: float = math.nan


class Next(Enum):
    """What a worker is to do next."""

    WORK = "compute a gradient at the parameters that come with this"
    WAIT = "ask again a little later: all batches are out, but one may come back"
    STOP = "training has ended"


class Reply(NamedTuple):
    """What the server answers.

    Attributes:
        next: what the worker is to do. Parameters come with WORK alone.
        version: the server's version now, that of the parameters.
        result: what became of the gradient. None if none came, or it came after the end and was
            left aside.
        lease: number of the lease of the next batch; None without one.
        indices: the samples of that batch; None if the server has no batches.
    """

    next: Next
    version: Version
    result: PushResult | None = None
    lease: int | None = None
    indices: list[int] | None = None
