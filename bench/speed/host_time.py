"""Host time of a step over small tensors: what it costs to look at every address.

    python -m bench.speed.host_time > bench/results/host-time/<commit>.csv

To compare two states of the code, run it from both, one after the other and again.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import yfkernels
from yfkernels.lab.registry import OPTIMIZERS

_NUMEL = 64
_STEPS = 300
_WARM_UP = 20


def _tuned(base: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params: yfkernels.HD(base(params))


# The default of every optimizer in the registry, YellowFin's without a preconditioner, torch's, and
# HD over some.
BUILDS: dict[str, Callable[..., Any]] = {
    **{row.label: row.optimizer for row in OPTIMIZERS},
    "YellowFin preconditioner=None": partial(yfkernels.YellowFin, preconditioner=None),
    "torch AdamW fused": partial(torch.optim.AdamW, fused=True),
    "HD over torch AdamW fused": _tuned(partial(torch.optim.AdamW, fused=True)),
    "HD over QHM": _tuned(yfkernels.QHM),
}


def nothing(optimizer: Any) -> None:
    """The same tensors in every step."""


def gradients(optimizer: Any) -> None:
    """As after zero_grad(): other tensors, often in other places."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn(_NUMEL)


def state(optimizer: Any) -> None:
    """Gradients and state."""
    gradients(optimizer)
    for each in optimizer.state.values():
        for name, value in each.items():
            each[name] = value.clone()


def everything(optimizer: Any) -> None:
    """Gradients, state and the parameters' memory."""
    state(optimizer)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.data = p.data.clone()


CHANGES = (nothing, gradients, state, everything)


def step_time(build: Callable[..., Any], tensors: int, change: Callable[[Any], None]) -> float:
    """Median of the steps in microseconds; what is changed before them is not in it."""
    params = [torch.nn.Parameter(torch.randn(_NUMEL)) for _ in range(tensors)]
    optimizer = build(params)
    gradients(optimizer)
    times = []
    for _ in range(_WARM_UP + _STEPS):
        change(optimizer)
        start = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times[_WARM_UP:])


def main() -> None:
    torch.set_num_threads(1)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["optimizer", "tensors", "changed in every step", "microseconds"])
    for tensors in (1, 400):
        for name, build in BUILDS.items():
            for change in CHANGES:
                measured = step_time(build, tensors, change)
                rows.writerow([name, tensors, change.__name__, f"{measured:.1f}"])


if __name__ == "__main__":
    main()
