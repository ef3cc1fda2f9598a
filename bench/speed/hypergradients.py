"""What tuning by a hypergradient costs: whole training steps beside those of the base alone.

    python -m bench.speed.hypergradients > bench/results/hypergradients/cpu-<commit>.csv

Every contestant trains a model of its own, in turns; the samples are all written down, and the
median of a contestant over that of "plain" is what its step costs.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import yfkernels
from bench.common.environment import describe

_ROUNDS = 40
_WARM_UP = 5
BASES: dict[str, Callable[..., Any]] = {
    "SGD momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "AdamW fused": partial(torch.optim.AdamW, lr=1e-3, fused=True),
}
TUNERS: dict[str, Callable[..., Any] | None] = {
    "plain": None,
    "HD": yfkernels.HD,
    **{
        f"MARTHE {hvp}": partial(yfkernels.MARTHE, hvp=hvp)
        for hvp in ("reverse", "jvp", "central", "forward")
    },
}


class Task:
    """A model and minibatches for it."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model, x, y

    def loss(self) -> Tensor:
        outputs = self.model(self.x)
        return cross_entropy(outputs.flatten(0, -2), self.y.flatten())


def mlp() -> Task:
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return Task(nn.Sequential(*layers), torch.randn(128, 784), torch.randint(10, (128,)))


def conv_net() -> Task:
    """Three blocks with BatchNorm on images of MNIST's size."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        convolution = nn.Conv2d(before, after, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(576, 10))
    return Task(model, torch.randn(64, 1, 28, 28), torch.randint(10, (64,)))


def transformer() -> Task:
    """One encoder layer over 16 sequences of 64."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Linear(128, 64))
    return Task(model, torch.randn(16, 64, 128), torch.randint(64, (16, 64)))


TASKS = {"MLP": mlp, "conv net": conv_net, "transformer": transformer}


def contestant(make: Callable[[], Task], base: Callable[..., Any], name: str) -> Callable[[], None]:
    """One training step; MARTHE validates in each."""
    task, validation = make(), make()
    validation.model = task.model
    optimizer = base(task.model.parameters())
    tuner = TUNERS[name]
    if name.startswith("MARTHE"):
        assert tuner is not None
        own = tuner(optimizer)
        return lambda: own.step(task.loss, validation.loss)
    optimizer = optimizer if tuner is None else tuner(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        task.loss().backward()
        optimizer.step()

    return step


def race(make: Callable[[], Task], base: Callable[..., Any]) -> Iterator[tuple[str, int, float]]:
    """(contestant, round, seconds), one after the other in every round."""
    steps = {name: contestant(make, base, name) for name in TUNERS}
    for step in steps.values():
        for _ in range(_WARM_UP):
            step()
    for turn in range(_ROUNDS):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            yield name, turn, time.perf_counter() - begun


def main() -> None:
    """Writes the samples to the standard output, and the ratios to the standard error."""
    torch.manual_seed(0)
    facts = describe(torch.device("cpu"), "auto")
    writer = csv.writer(sys.stdout)
    writer.writerow(["# " + "; ".join(f"{key} {value}" for key, value in facts.items())])
    writer.writerow(["task", "base", "tuner", "round", "seconds"])
    for task, make in TASKS.items():
        for base, build in BASES.items():
            times: dict[str, list[float]] = {}
            for name, turn, seconds in race(make, build):
                writer.writerow([task, base, name, turn, f"{seconds:.6f}"])
                times.setdefault(name, []).append(seconds)
            plain = statistics.median(times["plain"])
            ratios = {name: statistics.median(all_of) / plain for name, all_of in times.items()}
            shown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            print(f"{task}, {base} ({1e3 * plain:.2f} ms): {shown}", file=sys.stderr)


if __name__ == "__main__":
    main()
