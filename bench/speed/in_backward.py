"""What a norm that is taken during the backward pass could save of a training step.

    python -m bench.speed.in_backward --threads 1 > bench/results/in-backward/<commit>.csv

The pass over the gradients reads them once more. A hook on each parameter could sum them while they
are still in cache, and costs the call of a hook for each tensor. Models take whole steps in turns:
as it is, with hooks that do nothing, and with hooks that take the norm. Beside that stands the time
of the pass itself, which is the most that could be saved. Times in milliseconds, a row each.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from yfkernels import YellowFin
from yfkernels.lab.workloads.digits import digits_conv
from yfkernels.lab.workloads.mnist import mnist_conv
from yfkernels.lab.workloads.text import text_transformer
from yfkernels.lab.workloads.training import Task

WARM_UP, ROUNDS = 5, 40
KINDS = ("plain", "empty hooks", "norm in hooks")


def tasks() -> Iterator[tuple[str, Task]]:
    """Models of 38 thousand to 3.2 million parameters."""
    yield "conv net on digits", digits_conv()
    yield "conv net on MNIST", mnist_conv()
    yield "transformer", text_transformer()
    yield "transformer, wide", text_transformer(256, 4)


class Trained:
    """A model that takes steps with hooks of one kind."""

    def __init__(self, task: Task, kind: str) -> None:
        self.task, self.batches = task, task.batches(0)
        self.model: nn.Module = task.model(0)
        self.optimizer: Any = YellowFin(self.model.parameters())
        self.norms: list[Tensor] = []
        self.times: list[float] = []
        for p in self.model.parameters() if kind != "plain" else ():
            p.register_post_accumulate_grad_hook(self.measure if "norm" in kind else self.nothing)

    def nothing(self, p: Tensor) -> None:
        """The cost of being called."""

    def measure(self, p: Tensor) -> None:
        assert p.grad is not None
        self.norms.append(torch.linalg.vector_norm(p.grad))

    def step(self) -> None:
        batch = next(self.batches)
        begin = perf_counter()
        self.optimizer.zero_grad()
        self.task.loss(self.model, batch).backward()
        self.optimizer.step()
        self.times.append(perf_counter() - begin)
        self.norms.clear()


def time_of_pass(optimizer: Any) -> float:
    """Of the measurement alone, over the gradients of the last step."""
    begin = perf_counter()
    optimizer._tuner.measure()
    return perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description="Norms in the backward pass.")
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    table = csv.writer(sys.stdout)
    table.writerow(["task", "parameters", "tensors", *KINDS, "pass", "threads", "torch"])
    for name, task in tasks():
        sides = {kind: Trained(task, kind) for kind in KINDS}
        passes: list[float] = []
        for _ in range(WARM_UP + ROUNDS):
            for side in sides.values():
                side.step()
            passes.append(time_of_pass(sides["plain"].optimizer))
        of = [median(side.times[WARM_UP:]) for side in sides.values()]
        of.append(median(passes[WARM_UP:]))
        params = list(sides["plain"].model.parameters())
        counts = [sum(p.numel() for p in params), len(params)]
        times = [f"{1e3 * seconds:.4f}" for seconds in of]
        table.writerow([name, *counts, *times, torch.get_num_threads(), torch.__version__])


if __name__ == "__main__":
    main()
