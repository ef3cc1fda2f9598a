"""The simulator: staleness as prescribed, repeatable, and what it does with refused batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from asynchronous.quadratic import Quadratic
from torch import Tensor, nn

from yfkernels.asynchronous import Batches, Refusal, Server, Simulator
from yfkernels.asynchronous.engines.simulator import fixed, in_order, memoryless, round_robin


@pytest.mark.parametrize(
    "schedule",
    [fixed(3, 30), round_robin(5, 30), memoryless(4, 30), [0, 0, 2, 1, 4, 5, 0, 3, 8]],
    ids=["fixed", "round robin", "memoryless", "measured"],
)
def test_gradients_are_as_stale_as_the_schedule_says(schedule: list[int]) -> None:
    """Against x(t+1) = x(t) - lr h x(t - tau(t)), written out."""
    run = Quadratic(torch.linspace(0.5, 1.0, 7, dtype=torch.float64), 0.1)
    records = run.simulator.run(schedule)
    assert [record.staleness for record in records] == schedule
    assert [record.step for record in records] == list(range(1, len(schedule) + 1))
    h = np.linspace(0.5, 1.0, 7)
    path = [np.ones(7)]
    for push, staleness in enumerate(schedule):
        stale = path[push - staleness]
        assert records[push].loss == pytest.approx(0.5 * float(h @ stale**2))
        path.append(path[-1] - 0.1 * h * stale)
    np.testing.assert_allclose(run.x.detach().numpy(), path[-1], rtol=1e-12)


def test_schedules() -> None:
    assert fixed(2, 5) == [0, 1, 2, 2, 2]
    assert round_robin(3, 5) == in_order([0, 1, 2, 0, 1]) == [0, 1, 2, 2, 2]
    assert memoryless(4, 50, seed=1) == memoryless(4, 50, seed=1) != memoryless(4, 50, seed=2)
    assert memoryless(1, 5) == [0] * 5


class Data:
    """Eleven samples; the one of index `poison` has a loss of NaN."""

    def __init__(self, poison: int | None = None, max_staleness: int | None = None) -> None:
        self.x = nn.Parameter(torch.zeros(1))
        self.batches = Batches(11, 2, epochs=2, clock=lambda: 0.0)
        self.server = Server(
            [self.x],
            torch.optim.SGD([self.x], lr=0.1),
            batches=self.batches,
            max_staleness=max_staleness,
        )
        self.poison = poison
        self.simulator = Simulator(self.server, self._loss)

    def _loss(self, batch: list[int] | None) -> Tensor:
        assert batch is not None
        factor = math.nan if self.poison in batch else 1.0
        return factor * (self.x - sum(batch)).square().sum()


def test_the_simulation_ends_with_the_batches() -> None:
    data = Data()
    records = data.simulator.run(round_robin(4, 100))
    assert data.batches.finished
    assert len(records) == 12
    assert [record.epoch for record in records] == [0] * 6 + [1] * 6


def test_a_batch_that_came_too_late_is_lent_again() -> None:
    data = Data(max_staleness=2)
    records = data.simulator.run(round_robin(5, 200))
    refused = [record for record in records if not record.applied]
    assert refused
    assert {record.refusal for record in refused} == {Refusal.STALE}
    assert data.batches.finished
    assert data.server.version.number == 12


def test_a_batch_whose_gradient_is_not_finite_is_given_up() -> None:
    data = Data(poison=7)
    records = data.simulator.run(round_robin(3, 200))
    assert [record.refusal for record in records if not record.applied] == [Refusal.NONFINITE] * 2
    assert data.batches.finished
    assert data.server.version.number == 10
    assert bool(data.x.isfinite())


def test_bad_input_is_named() -> None:
    run = Quadratic(torch.ones(1), 0.1)
    with pytest.raises(ValueError, match="Invalid schedule value: -1"):
        run.simulator.run([0, -1])
    with pytest.raises(ValueError, match="Invalid workers value: 0"):
        round_robin(0, 5)
    with pytest.raises(ValueError, match="Invalid workers value: 0"):
        memoryless(0, 5)
