"""Asynchronous training: a server that applies stale gradients, its batches, workers, engines."""

from yfkernels.asynchronous.batches import Batches, Lease
from yfkernels.asynchronous.engines.simulator import Simulator
from yfkernels.asynchronous.flat import FlatBuffers
from yfkernels.asynchronous.momentum import TotalMomentum
from yfkernels.asynchronous.push import Next, Pulled, PushResult, Refusal, Reply, Request, Version
from yfkernels.asynchronous.push_log import PushLog
from yfkernels.asynchronous.record import Record
from yfkernels.asynchronous.server import Server
from yfkernels.asynchronous.service import Answer, Service, WorkerCounts
from yfkernels.asynchronous.snapshots import Snapshot
from yfkernels.asynchronous.staleness import (
    RULES,
    AgeGate,
    CosineGate,
    DelayAdaptive,
    DropOlder,
    StalenessRule,
)
from yfkernels.asynchronous.worker import Link, work

__all__ = [
    "RULES",
    "AgeGate",
    "Answer",
    "Batches",
    "CosineGate",
    "DelayAdaptive",
    "DropOlder",
    "FlatBuffers",
    "Lease",
    "Link",
    "Next",
    "Pulled",
    "PushLog",
    "PushResult",
    "Record",
    "Refusal",
    "Reply",
    "Request",
    "Server",
    "Service",
    "Simulator",
    "Snapshot",
    "StalenessRule",
    "TotalMomentum",
    "Version",
    "WorkerCounts",
    "work",
]
