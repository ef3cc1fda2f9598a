"""Asynchronous training: a server that applies stale gradients, its batches, and a simulator."""

from yfkernels.asynchronous.batches import Batches, Lease
from yfkernels.asynchronous.flat import FlatBuffers
from yfkernels.asynchronous.momentum import TotalMomentum
from yfkernels.asynchronous.push import Pulled, PushResult, Refusal, Version
from yfkernels.asynchronous.push_log import PushLog
from yfkernels.asynchronous.server import Server
from yfkernels.asynchronous.simulator import Record, Simulator
from yfkernels.asynchronous.staleness import (
    RULES,
    AgeGate,
    CosineGate,
    DelayAdaptive,
    DropOlder,
    StalenessRule,
)

__all__ = [
    "RULES",
    "AgeGate",
    "Batches",
    "CosineGate",
    "DelayAdaptive",
    "DropOlder",
    "FlatBuffers",
    "Lease",
    "Pulled",
    "PushLog",
    "PushResult",
    "Record",
    "Refusal",
    "Server",
    "Simulator",
    "StalenessRule",
    "TotalMomentum",
    "Version",
]
