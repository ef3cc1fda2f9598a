"""Velocities in float8 where they have it hard, beside float32: losses, a row for each training.

    python -m bench.convergence.adverse --out bench/results/float8-adverse.csv

A small network learns a function of twenty numbers in four ways that its momentum could suffer
from, and in one that it should not notice.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import mse_loss

from bench.common.results import write_csv
from yfkernels import YellowFin

STEPS, BATCH = 1500, 32


class Case(NamedTuple):
    """What is hard.

    Attributes:
        first: scale of the first input, whose weights then have nearly all of the gradient.
        loss: scale of the loss, so of every gradient.
        late_lr: multiplier of the step in the second half.
        momentum: the first, and the least.
    """

    first: float = 1.0
    loss: float = 1.0
    late_lr: float = 1.0
    momentum: float = 0.0


CASES = {
    "plain": Case(),
    "one input a thousand times as large": Case(first=1e3),
    "gradients times 1e-6": Case(loss=1e-6),
    "gradients times 1e6": Case(loss=1e6),
    "steps shorter by 1e4 from the middle on": Case(late_lr=1e-4),
    "momentum .999 at first": Case(momentum=0.999),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=10, help="how many; default: 10")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    options = parser.parse_args(argv)
    write_csv(options.out, ("case", "seed", "float32", "float8"), _rows(options.seeds))


def _rows(seeds: int) -> Iterator[tuple[object, ...]]:
    for name, case in CASES.items():
        for seed in range(seeds):
            losses = (trained(case, seed, dtype) for dtype in (None, torch.float8_e4m3fn))
            yield (name, seed, *(f"{loss:.4g}" for loss in losses))


def trained(case: Case, seed: int, dtype: torch.dtype | None) -> float:
    """The loss on all of the data after training."""
    torch.manual_seed(seed)
    x = torch.randn(512, 20)
    y = torch.tanh(x @ torch.randn(20, 3))
    x[:, 0] *= case.first
    net = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 3))
    optimizer = YellowFin(net.parameters(), initial_momentum=case.momentum, momentum_dtype=dtype)
    for step in range(STEPS):
        if step == STEPS // 2:
            optimizer.param_groups[0]["lr"] = case.late_lr
        batch = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        (case.loss * mse_loss(net(x[batch]), y[batch])).backward()
        optimizer.step()
    with torch.no_grad():
        return mse_loss(net(x), y).item()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
