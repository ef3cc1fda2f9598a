"""What QHM promises."""

from __future__ import annotations

from bench.speed.targets.measures import time_ratio
from bench.speed.targets.target import LARGE, Target

QHM = "qhm"

TARGETS = (
    Target("cpu", LARGE, QHM, "QHM / fused SGD-m, time", "<=", 1.05, time_ratio(QHM, "sgd-fused")),
)
