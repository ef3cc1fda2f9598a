"""How much of the highest rise in Keskar's box ten iterations of L-BFGS-B find, by their units.

    python -m bench.convergence.keskar_units > bench/results/sharpness/keskar-units.csv

"study": z itself and the loss as it is. "ours": shares of the box, and the loss in units of 1% of
its first slope. Both from 0 and from two random points of the box, on an MLP of 283 weights,
untrained, half trained and trained. The highest known rise is the best of 200 steps to the highest
corner for the present gradient, and of what both have found.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import Bounds, minimize
from torch import nn

from yfkernels.analysis.landscape import Keskar, Surface
from yfkernels.analysis.landscape.spaces import Array, FullSpace

_EPS = 1e-3
_ITERATIONS = 10
_STARTS = 3
_CORNERS = 200


def main() -> None:
    """Writes a line for each network."""
    torch.set_default_dtype(torch.float64)
    writer = csv.writer(sys.stdout)
    writer.writerow(["seed", "steps", "loss", "highest_rise", "study", "ours"])
    for seed in range(3):
        for steps in (0, 100, 800):
            net, data = _trained(seed, steps)
            with Surface(net, F.cross_entropy, [data]) as surface:
                space = FullSpace(surface.params)
                half = _EPS * (abs(space.coordinates(surface.params)) + 1.0)
                study = max(_in_own_units(surface, space, half, u) for u in _starts(len(half)))
                keskar = Keskar(_EPS, iterations=_ITERATIONS, starts=_STARTS)(surface)
                corners = max(_by_corners(surface, space, half, u) for u in _starts(len(half)))
                found = [each - surface.loss for each in (study, keskar.max_loss, corners)]
                shares = (f"{each / max(found):.3f}" for each in found[:2])
                writer.writerow([seed, steps, f"{surface.loss:.4g}", f"{max(found):.4g}", *shares])


def _trained(seed: int, steps: int) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(seed)
    x = torch.randn(200, 10)
    y = (x[:, :3].square().sum(1) > 2.4).long() + (x[:, 4] > 0).long()
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net, (x, y)


def _starts(size: int) -> Iterator[Array]:
    rng = np.random.default_rng(0)
    yield np.zeros(size)
    for _ in range(_STARTS - 1):
        yield rng.uniform(-1.0, 1.0, size)


def _in_own_units(surface: Surface, space: FullSpace, half: Array, u: Array) -> float:
    met: list[float] = []

    def below(z: Array) -> tuple[float, Array]:
        with surface.displaced(space.displacement(z)):
            loss, grads = surface.gradient()
        met.append(loss)
        return -loss, -space.slopes(grads)

    options = {"maxiter": _ITERATIONS}
    bounds = Bounds(-half, half)
    minimize(below, half * u, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return max(met)


def _by_corners(surface: Surface, space: FullSpace, half: Array, u: Array) -> float:
    best = surface.loss
    for _ in range(_CORNERS):
        with surface.displaced(space.displacement(half * u)):
            loss, grads = surface.gradient()
        best, u = max(best, loss), np.sign(space.slopes(grads))
    return best


if __name__ == "__main__":
    main()
