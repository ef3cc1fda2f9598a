"""What the closed loop adds to a step of YellowFin: two optimizers in turns, 50M parameters each.

    python -m bench.speed.closed_loop > bench/results/asynchronous/closed-loop-<commit>.csv

Four steps are timed together, as many as lie between two readings of the total momentum.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time

import torch

from bench.common.environment import describe
from bench.speed.sizes import Size
from bench.speed.workload import make_parameters
from yfkernels import ClosedLoop, YellowFin

_PARAMETERS = 50_000_000
_TENSORS = (1, 50)
_STALENESS = 15
_ROUNDS = 80
_WARM_UP = 6  # rounds: until the history reaches back


class Contestant:
    """An optimizer whose gradients change from step to step, outside of what is timed."""

    def __init__(self, tensors: int, loop: ClosedLoop | bool) -> None:
        size = Size("made", ((_PARAMETERS // tensors,),) * tensors)
        self._params = make_parameters(size, torch.device("cpu"))
        self._optimizer = YellowFin(self._params, closed_loop=loop)

    def seconds(self, steps: int) -> float:
        """Of so many steps."""
        taken = 0.0
        for _ in range(steps):
            for param in self._params:
                assert param.grad is not None
                param.grad.neg_().add_(1e-6)
            begun = time.perf_counter()
            self._optimizer.step(staleness=_STALENESS)
            taken += time.perf_counter() - begun
        return taken


def main() -> None:
    """Writes the samples to the standard output, and the ratios to the standard error."""
    writer = csv.writer(sys.stdout)
    facts = describe(torch.device("cpu"), "auto")
    writer.writerow(["# " + "; ".join(f"{key} {value}" for key, value in facts.items())])
    writer.writerow(["tensors", "parameters", "round", "steps", "open_seconds", "closed_seconds"])
    steps = ClosedLoop().every
    for tensors in _TENSORS:
        plain, closed = Contestant(tensors, False), Contestant(tensors, True)
        ratios = []
        for turn in range(-_WARM_UP, _ROUNDS):
            samples = plain.seconds(steps), closed.seconds(steps)
            if turn >= 0:
                row = [tensors, _PARAMETERS, turn, steps, *(f"{each:.6f}" for each in samples)]
                writer.writerow(row)
                ratios.append(samples[1] / samples[0])
        ratio = statistics.median(ratios)
        print(f"{tensors} tensors: {ratio:.4f} of an open step", file=sys.stderr)


if __name__ == "__main__":
    main()
