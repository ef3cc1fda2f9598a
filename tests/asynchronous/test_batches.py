"""Every sample counts once in an epoch: random programs of workers that die, are late, resume."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from support.cut_training import through_a_file

from yfkernels.asynchronous import Batches, Lease


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Samples that were answered, by (epoch, sample); rolled back when the server resumes."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.clock = Clock()
        self.samples = int(rng.integers(1, 40))
        self.epochs = int(rng.integers(1, 5))
        self.options: dict[str, Any] = {
            "epochs": self.epochs,
            "shuffle": bool(rng.integers(2)),
            "seed": int(rng.integers(100)),
            "patience": 10.0,
            "clock": self.clock,
        }
        self.batches = Batches(self.samples, int(rng.integers(1, 12)), **self.options)
        self.answered: Counter[tuple[int, int]] = Counter()
        self.known: list[Lease] = []  # to any worker, open or not

    def lend(self) -> None:
        worker = str(self.rng.integers(4))
        lease = self.batches.lend(worker)
        if lease is not None:
            assert lease.number not in [known.number for known in self.known]
            self.known.append(lease)

    def answer(self) -> None:
        """A push for any lease there ever was."""
        if self.known:
            lease = self.known[self.rng.integers(len(self.known))]
            if self.batches.is_open(lease.number):
                self.batches.close(lease.number)
                self.answered.update((lease.epoch, index) for index in lease.indices)

    def die(self) -> None:
        self.batches.take_back_all(str(self.rng.integers(4)))

    def refuse(self) -> None:
        open_leases = [each for each in self.known if self.batches.is_open(each.number)]
        if open_leases:
            self.batches.take_back(open_leases[0].number)

    def wait(self) -> None:
        self.clock.now += float(self.rng.uniform(0.0, 12.0))

    def resize(self) -> None:
        self.batches.batch_size = int(self.rng.integers(1, 12))

    def resume(self) -> None:
        """The server dies and comes back; what it had lent is nobody's."""
        saved = through_a_file(self.batches.state_dict())
        answered = self.answered.copy()
        for _ in range(self.rng.integers(4)):  # lost
            self.lend()
            self.answer()
        self.answered = answered
        self.batches = Batches(self.samples, 1, **self.options)
        self.batches.load_state_dict(saved)
        self.known = []


ACTIONS = (Model.lend, Model.answer, Model.die, Model.refuse)
ACTIONS += (Model.wait, Model.resize, Model.resume)
ODDS = np.array([10, 10, 1, 1, 3, 1, 0.5]) / 26.5


@pytest.mark.parametrize("repeat", range(30))
def test_every_sample_counts_once(repeat: int, rng: np.random.Generator) -> None:
    model = Model(rng)
    for _ in range(10_000):
        if model.batches.finished:
            break
        ACTIONS[rng.choice(len(ACTIONS), p=ODDS)](model)
        done = model.batches.epochs_done
        assert all(
            model.answered[epoch, sample] == 1
            for epoch in range(done)
            for sample in range(model.samples)
        )
    assert model.batches.finished
    everything = {(epoch, i): 1 for epoch in range(model.epochs) for i in range(model.samples)}
    assert model.answered == everything
    assert model.batches.lend() is None


def leases(batches: Batches, count: int) -> list[Lease]:
    lent = [batches.lend() for _ in range(count)]
    return [lease for lease in lent if lease is not None]


def test_the_order_is_that_of_the_seed_and_the_epoch() -> None:
    def orders(seed: int) -> list[list[int]]:
        return [lease.indices for lease in leases(Batches(50, 50, seed=seed), 2)]

    first, second = orders(1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert orders(1) == [first, second]
    assert orders(3)[0] != first


def test_the_next_epoch_begins_while_batches_are_out() -> None:
    batches = Batches(5, 2, epochs=2)
    lent = leases(batches, 9)
    assert [lease.epoch for lease in lent] == [0, 0, 0, 1, 1, 1]
    assert [len(lease.indices) for lease in lent] == [2, 2, 1, 2, 2, 1]
    for lease in lent[1:]:
        batches.close(lease.number)
    assert batches.epochs_done == 0
    batches.close(lent[0].number)
    assert batches.epochs_done == 2


def test_a_late_answer_counts_until_its_batch_is_lent_again() -> None:
    clock = Clock()
    batches = Batches(2, 1, epochs=1, patience=5.0, clock=clock)
    first, second = leases(batches, 2)
    assert first.deadline == 5.0
    clock.now = 4.9
    assert batches.lend() is None
    clock.now = 5.0
    assert batches.is_open(first.number)
    again = batches.lend()
    assert again is not None
    assert (again.indices, again.deadline) == (first.indices, 10.0)
    assert again.number > second.number
    assert not batches.is_open(first.number)
    batches.close(second.number)  # late, and in time


def test_what_is_given_up_is_not_lent_again() -> None:
    batches = Batches(2, 1, epochs=1)
    for lease in leases(batches, 2):
        batches.close(lease.number)
    assert batches.finished
    with pytest.raises(ValueError, match="Invalid number value: 0; it must be that of an open"):
        batches.take_back(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "Invalid samples value: 0"),
        ({"batch_size": 0}, "Invalid batch_size value: 0"),
        ({"batch_size": True}, "Invalid batch_size value: True"),
        ({"epochs": 0}, "Invalid epochs value: 0"),
        ({"patience": 0.0}, r"Invalid patience value: 0\.0"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(**{"samples": 4, "batch_size": 2, **change})


def test_state_of_other_data_is_refused() -> None:
    batches = Batches(4, 2)
    leases(batches, 1)
    state = batches.state_dict()
    for bad, message in (
        (Batches(5, 2).state_dict(), "saved with 5 samples, these are 4"),
        ({k: v for k, v in state.items() if k != "due"}, "it lacks due"),
    ):
        with pytest.raises(ValueError, match=message):
            batches.load_state_dict(bad)
        assert batches.state_dict() == state
