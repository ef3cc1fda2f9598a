"""What the brake of the normalized form is for: trainings without noise, with it and without.

    python -m bench.convergence.online.brake > bench/results/hypergradients/brake.csv

HD over plain SGD on a whole data set, an MLP of 16 tanh units on 256 points: the gradients agree
for so long that the learning rate grows beyond what is stable.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import SGD

from bench.common.environment import describe
from yfkernels import HD
from yfkernels.tuners import hypergradient

SEEDS, STEPS = 30, 300
# name: growth that the brake asks for, times the usual, strength
BRAKES = {
    "none": (math.inf, math.inf, 0.0),
    "as it is": (hypergradient.GROWTH, hypergradient.UNUSUAL, hypergradient.BRAKE),
    "a third as strong": (hypergradient.GROWTH, hypergradient.UNUSUAL, 1.0),
    "three times the usual": (math.log(1.3), 3.0, 1.0),
    "six times the usual": (math.log(1.3), 6.0, 3.0),
}


def losses(seed: int) -> Iterator[float]:
    """Of each step, before it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 6, generator=generator)
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = HD(SGD(model.parameters(), lr=0.01))
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        yield loss.item()


def main() -> None:
    """Writes the samples to the standard output, and a summary to the standard error."""
    torch.set_num_threads(1)
    facts = describe(torch.device("cpu"), "auto")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["# " + "; ".join(f"{key} {value}" for key, value in facts.items())])
    writer.writerow(["brake", "seed", "highest_over_first", "last_over_first"])
    for name, brake in BRAKES.items():
        hypergradient.GROWTH, hypergradient.UNUSUAL, hypergradient.BRAKE = brake
        highest = []
        for seed in range(SEEDS):
            course = list(losses(seed))
            worst = max(course) if all(map(math.isfinite, course)) else math.inf
            highest.append(worst / course[0])
            last = course[-1] / course[0]
            writer.writerow([name, seed, f"{highest[-1]:.4g}", f"{last:.4g}"])
        above = sum(one > 10.0 for one in highest)
        print(f"{name}: {above} of {SEEDS} above ten, worst {max(highest):.2g}", file=sys.stderr)


if __name__ == "__main__":
    main()
