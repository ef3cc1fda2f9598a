"""Whose threads the CPU kernels run on, and that it makes no difference to a result."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest
import torch
from support.cases import MODES, Site, assert_same_bits, normal, why_unusable

from yfkernels import YellowFin
from yfkernels.config import config

NUMEL = 200_000  # enough for more than one thread

UNUSABLE = why_unusable(Site("native", "cpu"))
pytestmark = pytest.mark.skipif(UNUSABLE is not None, reason=str(UNUSABLE))


class Model:
    """One parameter with a gradient, and its optimizer."""

    def __init__(self, seed: int, mode: str = "robust") -> None:
        rng = np.random.default_rng(seed)
        self.param = torch.nn.Parameter(normal(rng, torch.empty(NUMEL)).float())
        self.param.grad = normal(rng, torch.empty(NUMEL)).float()
        self.optimizer = YellowFin([self.param], **MODES[mode], backend="native")

    def train(self, steps: int) -> torch.Tensor:
        for _ in range(steps):
            self.optimizer.step()
        return self.param.detach()


@pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="torch built without OpenMP")
def test_they_are_those_of_torch() -> None:
    assert "omp" in config()["build"]["threads"]


@pytest.mark.parametrize("mode", MODES)
def test_a_forked_child_has_threads_of_its_own(
    mode: str, rng: np.random.Generator, threads: None
) -> None:
    torch.set_num_threads(2)
    seed = int(rng.integers(2**32))
    model = Model(seed, mode)
    model.train(2)  # the parent's team exists before the fork
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    # nothing but the kernels runs on several threads in the child: torch's own would hang there
    child = context.Process(target=lambda: sender.send_bytes(model.train(2).numpy().tobytes()))
    child.start()
    try:
        assert receiver.poll(60), "the forked child hangs"
        bits = receiver.recv_bytes()
    finally:
        child.kill()
        child.join()
    in_child = torch.frombuffer(bytearray(bits), dtype=torch.float32)
    assert_same_bits(in_child, model.train(2))


def test_two_callers_at_once(rng: np.random.Generator, threads: None) -> None:
    torch.set_num_threads(2)
    seeds = [int(rng.integers(2**32)) for _ in range(3)]
    models = [Model(seed) for seed in seeds]
    callers = [threading.Thread(target=model.train, args=(20,)) for model in models]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for seed, model in zip(seeds, models, strict=True):
        assert_same_bits(model.param.detach(), Model(seed).train(20))
