"""What QHM and QHAdam promise."""

from __future__ import annotations

from bench.speed.targets.measures import state_per_param, time_ratio
from bench.speed.targets.target import LARGE, Target

QHM, QHADAM, BYTES = "qhm", "qhadam", "qhadam-bytes"

TARGETS = (
    Target("cpu", LARGE, QHM, "QHM / fused SGD-m, time", "<=", 1.05, time_ratio(QHM, "sgd-fused")),
    Target(
        "cpu",
        LARGE,
        BYTES,
        "QHAdam in 8 bits / QHAdam, time",
        "<=",
        1.1,
        time_ratio(BYTES, QHADAM),
    ),
    Target(
        "cpu",
        LARGE,
        BYTES,
        "QHAdam in 8 bits, state bytes / param",
        "<=",
        2.0,
        state_per_param(BYTES),
    ),
)
