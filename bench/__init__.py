"""Benchmarks: how fast a step is (`speed`), and how fast and how far it trains (`convergence`)."""

import os

# torch's profiler announces every start and stop on stderr, whatever the level of torch's own log.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
