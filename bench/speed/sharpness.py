"""What measures of sharpness cost: time beside plain products with the Hessian, and memory.

    python -m bench.speed.sharpness time > bench/results/sharpness/time-<commit>.csv
    python -m bench.speed.sharpness memory > bench/results/sharpness/memory-<commit>.csv

Time: iterations of `lambda_max`, and as many products by differentiating twice, in turns on one
thread. Memory: the peak of a process that measures, above that before it, in vectors of the model's
size; "gradient" and "product" are one of each without this package.
"""

from __future__ import annotations

import csv
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common.environment import describe
from yfkernels.analysis.landscape import (
    Adaptive,
    EpsilonFlatness,
    Keskar,
    LambdaMax,
    Measure,
    Random,
    Surface,
    Trace,
)

_ITERATIONS = 20
_ROUNDS = 9
_KIB = 1024

Batches = list[tuple[Tensor, Tensor]]


def _mlp() -> tuple[nn.Module, Batches]:
    """270,000 weights."""
    net = nn.Sequential(
        *(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()), nn.Linear(256, 10)
    )
    return net, _batches(torch.randn(1024, 784))


def _conv_net() -> tuple[nn.Module, Batches]:
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    return net, _batches(torch.randn(64, 3, 16, 16))


def _wide() -> tuple[nn.Module, Batches]:
    """60 MB of weights and next to no activations."""
    net = nn.Sequential(nn.Linear(3000, 5000, bias=False), nn.ReLU(), nn.Linear(5000, 3))
    return net, _batches(torch.randn(4, 3000), classes=3)


def _batches(inputs: Tensor, classes: int = 10) -> Batches:
    targets = torch.randint(classes, (len(inputs),))
    half = len(inputs) // 2
    return list(zip(inputs.split(half), targets.split(half)))


def _product(net: nn.Module, batch: tuple[Tensor, Tensor], vectors: list[Tensor]) -> None:
    params = list(net.parameters())
    loss = F.cross_entropy(net(batch[0]), batch[1])
    torch.autograd.grad(torch.autograd.grad(loss, params, create_graph=True), params, vectors)


def _plain(net: nn.Module, batches: Batches) -> None:
    vectors = [torch.randn_like(p) for p in net.parameters()]
    for _ in range(_ITERATIONS):
        for batch in batches:
            _product(net, batch, vectors)


def _ours(net: nn.Module, batches: Batches) -> None:
    with Surface(net, F.cross_entropy, batches) as surface:
        found = LambdaMax(iterations=_ITERATIONS, tolerance=1e-30)(surface)
    assert found.evaluations.products == _ITERATIONS


def measure_time() -> None:
    """A line a round; medians of the ratios go to the standard error."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["network", "round", "plain_seconds", "lambda_max_seconds"])
    for name, make in (("mlp", _mlp), ("conv-net", _conv_net)):
        net, batches = make()
        net.eval()
        ratios = []
        for turn in range(-1, _ROUNDS):
            seconds = [_seconds(run, net, batches) for run in (_plain, _ours)]
            if turn >= 0:
                writer.writerow([name, turn, *(f"{each:.6f}" for each in seconds)])
                ratios.append(seconds[1] / seconds[0])
        print(f"{name}: {statistics.median(ratios):.3f}", file=sys.stderr)


def _seconds(run: Callable[[nn.Module, Batches], None], net: nn.Module, batches: Batches) -> float:
    begun = time.perf_counter()
    run(net, batches)
    return time.perf_counter() - begun


MEASURES: dict[str, Measure] = {
    "keskar": Keskar(iterations=3, starts=1),
    "keskar-subspace": Keskar(iterations=2, starts=1, subspace=5),
    "adaptive": Adaptive(iterations=3),
    "random": Random(samples=2),
    "lambda_max": LambdaMax(iterations=4),
    "trace": Trace(samples=2),
    "epsilon_flatness": EpsilonFlatness(directions=2, iterations=2, tolerance=0.5),
}


def peak(name: str) -> float:
    """Of this process, which is to measure nothing else; in vectors."""
    net, batches = _wide()
    size = sum(p.nbytes for p in net.parameters())
    F.cross_entropy(net(batches[0][0]), batches[0][1]).item()
    if name.startswith("keskar"):
        import scipy.optimize  # noqa: F401  (its own memory is not counted)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name == "gradient":
        loss = F.cross_entropy(net(batches[0][0]), batches[0][1])
        torch.autograd.grad(loss, list(net.parameters()))
    elif name == "product":
        _product(net, batches[0], [torch.ones_like(p) for p in net.parameters()])
    else:
        with Surface(net, F.cross_entropy, batches) as surface:
            MEASURES[name](surface)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * _KIB / size


def measure_memory() -> None:
    """A line a measure, each in a process of its own."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["measure", "vectors"])
    for name in ("gradient", "product", *MEASURES):
        command = [sys.executable, "-m", "bench.speed.sharpness", "peak", name]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        writer.writerow([name, ran.stdout.strip()])


def main() -> None:
    """`time`, `memory`, or what `memory` starts: `peak NAME`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    what, *rest = sys.argv[1:]
    if what == "peak":
        print(f"{peak(rest[0]):.2f}")
        return
    facts = describe(torch.device("cpu"), "auto")
    print("# " + "; ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    {"time": measure_time, "memory": measure_memory}[what]()


if __name__ == "__main__":
    main()
