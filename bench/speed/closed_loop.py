"""What the closed loop adds to a step of YellowFin: two optimizers in turns, 50M parameters each.

    python -m bench.speed.closed_loop > bench/results/asynchronous/closed-loop-<commit>.csv

Four steps are timed together, as many as lie between two readings of the total momentum.
"""

from __future__ import annotations

from functools import partial

from bench.speed.in_turns import race
from yfkernels import ClosedLoop, YellowFin

if __name__ == "__main__":
    race(
        YellowFin,
        partial(YellowFin, closed_loop=True),
        names=("open", "closed"),
        steps=ClosedLoop().every,
        warm_up=6,  # until the history reaches back
        rounds=80,
        staleness=15,
    )
