"""Two forms of an optimizer step by step beside each other, and how their times compare."""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.common.environment import describe
from bench.speed.sizes import Size
from bench.speed.workload import make_parameters

_PARAMETERS = 50_000_000
_TENSORS = (1, 50)

Make = Callable[[Sequence[torch.Tensor]], Any]


class Contestant:
    """An optimizer of 50M parameters whose gradients change outside of what is timed."""

    def __init__(self, tensors: int, make: Make, **arguments: Any) -> None:
        size = Size("made", ((_PARAMETERS // tensors,),) * tensors)
        self._params = make_parameters(size, torch.device("cpu"))
        self._optimizer = make(self._params)
        self._arguments = arguments

    def seconds(self, steps: int) -> float:
        """Of so many steps."""
        taken = 0.0
        for _ in range(steps):
            for param in self._params:
                assert param.grad is not None
                param.grad.neg_().add_(1e-6)
            begun = time.perf_counter()
            self._optimizer.step(**self._arguments)
            taken += time.perf_counter() - begun
        return taken


def race(
    plain: Make,
    other: Make,
    *,
    names: tuple[str, str],
    steps: int,
    warm_up: int,
    rounds: int,
    **arguments: Any,
) -> None:
    """Writes the samples to the standard output, and the median ratio to the standard error.

    Args:
        plain, other: make the two.
        names: of their columns, without "_seconds".
        steps: that are timed together.
        warm_up, rounds: of so many steps each.
        arguments: of `step`.
    """
    writer = csv.writer(sys.stdout)
    facts = describe(torch.device("cpu"), "auto")
    writer.writerow(["# " + "; ".join(f"{key} {value}" for key, value in facts.items())])
    columns = [f"{name}_seconds" for name in names]
    writer.writerow(["tensors", "parameters", "round", "steps", *columns])
    for tensors in _TENSORS:
        both = [Contestant(tensors, make, **arguments) for make in (plain, other)]
        ratios = []
        for turn in range(-warm_up, rounds):
            samples = [each.seconds(steps) for each in both]
            if turn >= 0:
                row = [tensors, _PARAMETERS, turn, steps, *(f"{each:.6f}" for each in samples)]
                writer.writerow(row)
                ratios.append(samples[1] / samples[0])
        ratio = statistics.median(ratios)
        print(f"{tensors} tensors: {ratio:.4f} of {names[0]}", file=sys.stderr)
