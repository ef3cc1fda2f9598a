"""One step of every contestant under pytest-benchmark: `pytest bench`."""

from __future__ import annotations

from math import prod

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.speed.contestant import Build
from bench.speed.contestants import CONTESTANTS
from bench.speed.sizes import parse_size
from bench.speed.workload import MovingGradients, make_parameters

SIZES = ("400x64", "1000x1024", "resnet50")
CPU = torch.device("cpu")
NAMES = [name for name, row in CONTESTANTS.items() if row.package is None]
KEEPING_ADDRESSES = [name for name in NAMES if CONTESTANTS[name].ours]


@pytest.mark.parametrize("size_name", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_step(benchmark: BenchmarkFixture, size_name: str, name: str) -> None:
    """Gradients that stay where they are."""
    contestant, params = CONTESTANTS[name], make_parameters(parse_size(size_name), CPU)
    step = contestant.step_function(contestant.make(params, Build()), params)
    step()  # makes the state
    benchmark.group = size_name
    benchmark(step)
    _note_bandwidth(benchmark, contestant.bytes_fp32, params)


@pytest.mark.parametrize("size_name", SIZES)
@pytest.mark.parametrize("name", KEEPING_ADDRESSES)
def test_step_with_moved_gradients(benchmark: BenchmarkFixture, size_name: str, name: str) -> None:
    """Every gradient at another address in each step."""
    contestant, params = CONTESTANTS[name], make_parameters(parse_size(size_name), CPU)
    step = contestant.step_function(contestant.make(params, Build()), params)
    step()
    benchmark.group = size_name
    benchmark.pedantic(step, setup=MovingGradients(params).move, rounds=50, warmup_rounds=3)
    _note_bandwidth(benchmark, contestant.bytes_fp32, params)


def _note_bandwidth(
    benchmark: BenchmarkFixture, bytes_per_param: int, params: list[Tensor]
) -> None:
    """Put GB/s on the counted bytes beside the time; without timing there is nothing to note."""
    if benchmark.stats is None:
        return
    traffic = bytes_per_param * sum(prod(param.shape) for param in params)
    benchmark.extra_info["GB/s"] = traffic / benchmark.stats.stats.median / 1e9
