"""Training over gloo with real processes, that are killed, sleep, lie, and go on."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
from asynchronous.engines import processes as roles
from asynchronous.engines.processes import Outcome, Training, run

from yfkernels.asynchronous import Refusal, WorkerCounts
from yfkernels.asynchronous.engines.wire import Fault

KILLED = -signal.SIGKILL


def assert_every_sample_counts(outcome: Outcome, training: Training) -> None:
    """Once an epoch, in both tensors if there are two; and every push as one version."""
    expected = [float(training.epochs)] * training.samples
    assert outcome.counts == expected
    assert outcome.again == (expected if training.double else [])
    assert outcome.version == training.epochs * training.samples // 2
    assert outcome.version == sum(worker.applied for worker in outcome.workers.values())


def test_every_sample_counts_once_and_no_parameters_are_torn(tmp_path: Path) -> None:
    training = Training(samples=60, double=True)
    outcome = run(tmp_path, training, roles.serves, roles.works, roles.works, roles.works)
    assert outcome.exits == [0, 0, 0, 0], outcome.errors
    assert_every_sample_counts(outcome, training)
    assert set(outcome.workers) == {"worker 1", "worker 2", "worker 3"}
    for counts in outcome.workers.values():
        assert counts == WorkerCounts(applied=counts.applied)
        assert counts.applied > 0


def test_one_worker(tmp_path: Path) -> None:
    outcome = run(tmp_path, Training(), roles.serves, roles.works)
    assert outcome.exits == [0, 0], outcome.errors
    assert_every_sample_counts(outcome, Training())


@pytest.mark.parametrize(
    ("role", "training"),
    [
        (roles.is_killed_between_two_tensors, Training(samples=60, double=True)),
        (roles.is_killed_in_a_tensor, Training(samples=20, padding=10_000_000)),
        (roles.is_killed_while_it_pulls, Training(samples=20, padding=10_000_000)),
    ],
    ids=["between two tensors", "in a tensor", "while it pulls"],
)
def test_a_killed_worker_costs_its_gradient_and_nothing_else(
    tmp_path: Path, role: roles.Role, training: Training
) -> None:
    """Its batch comes back because its death is noticed: patience has no end here."""
    outcome = run(tmp_path, training, roles.serves, roles.works, role)
    assert outcome.exits == [0, 0, KILLED], outcome.errors
    assert_every_sample_counts(outcome, training)
    pushed = 0 if role is roles.is_killed_while_it_pulls else 2
    assert outcome.workers["worker 2"] == WorkerCounts(pushed, losses=Counter(["died"]))
    assert outcome.workers["worker 1"] == WorkerCounts(outcome.version - pushed)


def test_a_worker_that_sleeps_loses_nothing_but_time(tmp_path: Path) -> None:
    training = Training()
    outcome = run(tmp_path, training, roles.serves, roles.works, roles.sleeps_half_a_second)
    assert outcome.exits == [0, 0, 0], outcome.errors
    assert_every_sample_counts(outcome, training)
    assert not any(worker.refusals or worker.losses for worker in outcome.workers.values())


@pytest.mark.parametrize("seconds", [0.5, 10.0])
def test_a_batch_of_a_worker_that_sleeps_longer_than_patience_is_lent_again(
    tmp_path: Path, seconds: float
) -> None:
    sleeps = roles.sleeps_half_a_second if seconds < 1.0 else roles.sleeps_ten_seconds
    training = Training(server={"patience": 0.2})
    outcome = run(tmp_path, training, roles.serves, roles.works, sleeps)
    assert outcome.exits == [0, 0, 0], outcome.errors
    assert_every_sample_counts(outcome, training)
    slow = outcome.workers["worker 2"]
    assert slow.refusals[Refusal.LEASE] + slow.unused >= 1
    assert set(slow.refusals) <= {Refusal.LEASE}
    assert not slow.losses
    assert outcome.seconds > seconds


def test_a_gradient_that_is_not_finite_costs_its_batch(tmp_path: Path) -> None:
    training = Training()
    bad = roles.pushes_nan, roles.pushes_infinity
    outcome = run(tmp_path, training, roles.serves, roles.works, *bad)
    assert outcome.exits == [0, 0, 0, 0], outcome.errors
    assert sorted(set(outcome.counts)) == [1.0, 2.0]
    assert outcome.counts.count(1.0) == 2 * 2  # the first batches of the two, in one epoch
    assert outcome.version == training.samples - 2
    for rank in (2, 3):
        assert outcome.workers[f"worker {rank}"].refusals == Counter({Refusal.NONFINITE: 1})
    assert outcome.workers["worker 1"] == WorkerCounts(outcome.workers["worker 1"].applied)


def test_a_push_that_is_too_old_is_refused_and_its_batch_is_lent_again(tmp_path: Path) -> None:
    training = Training(server={"max_staleness": 0})
    outcome = run(tmp_path, training, roles.serves, *[roles.works] * 3)
    assert outcome.exits == [0] * 4, outcome.errors
    assert_every_sample_counts(outcome, training)
    refusals = sum((worker.refusals for worker in outcome.workers.values()), Counter())
    assert refusals[Refusal.STALE] > 0


MISFITS: dict[roles.Role, tuple[Fault, int]] = {  # and the good pushes before
    roles.has_more_samples: (Fault.MODEL, 0),
    roles.has_other_shapes: (Fault.MODEL, 0),
    roles.has_another_token: (Fault.TOKEN, 0),
    roles.names_another_worker: (Fault.WORKER, 0),
    roles.sends_a_broken_header: (Fault.CHECKSUM, 0),
    roles.sends_noise: (Fault.MAGIC, 0),
    roles.pushes_before_it_asks: (Fault.KIND, 0),
    roles.announces_other_sizes: (Fault.MODEL, 2),
    roles.sends_less_than_announced: (Fault.SHORT, 2),
}


def test_who_sends_what_does_not_fit_is_served_no_longer(tmp_path: Path) -> None:
    """All of them in one run, along with one good worker, which trains to the end."""
    training = Training()
    outcome = run(tmp_path, training, roles.serves, roles.works, *MISFITS)
    assert outcome.exits == [0, 0, *[1] * len(MISFITS)], outcome.errors
    assert_every_sample_counts(outcome, training)
    for rank, (role, (fault, applied)) in enumerate(MISFITS.items(), start=2):
        expected = WorkerCounts(applied, losses=Counter([fault.value]))
        assert outcome.workers[f"worker {rank}"] == expected, role.__name__
        assert fault.value in outcome.errors[rank]
        assert outcome.errors[rank].startswith("ConnectionError: ")
    other = outcome.errors[2]  # has_more_samples
    assert "the server has 300048 of torch.float32, this worker 301040 of torch.float32" in other


def test_a_killed_server_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    training = Training(service={"checkpoint": "state.pt", "checkpoint_every": 5})
    outcome = run(tmp_path, training, roles.serves_and_is_killed_at_23, *[roles.works] * 2)
    assert outcome.exits == [KILLED, 1, 1]
    assert outcome.errors[1:] == ["ConnectionError: the server died"] * 2
    training.service["resume"] = True
    outcome = run(tmp_path, training, roles.serves, *[roles.works] * 3)
    assert outcome.exits == [0] * 4, outcome.errors
    assert_every_sample_counts(outcome, training)  # those of rank 1 and 2 before, too


def test_ctrl_c_tells_the_workers_and_writes_the_checkpoint(tmp_path: Path) -> None:
    training = Training(epochs=100, service={"checkpoint": "state.pt"})
    interrupted = roles.serves_and_is_interrupted_at_10
    outcome = run(tmp_path, training, interrupted, roles.works, roles.works)
    assert outcome.exits == [1, 0, 0], outcome.errors
    assert outcome.errors[0].startswith("KeyboardInterrupt")
    assert 10 <= outcome.version < 100
    assert sum(outcome.counts) == 2 * outcome.version
    training.service["resume"], training.service["pushes"] = True, outcome.version
    again = run(tmp_path, training, roles.serves, roles.works)
    assert again.exits == [0, 0], again.errors
    assert (again.counts, again.version) == (outcome.counts, outcome.version)


def test_an_error_in_the_server_ends_training_and_tells_the_workers(tmp_path: Path) -> None:
    outcome = run(tmp_path, Training(), roles.serves_and_fails_at_10, roles.works, roles.works)
    assert outcome.exits[0] == 1
    assert outcome.errors[0] == "OSError: disk full"
    assert outcome.version == 10
    assert sorted(outcome.exits[1:]) == [0, 1]  # one's push was the one that failed
    assert "ConnectionError: the server died" in outcome.errors


def test_without_workers_the_server_says_why(tmp_path: Path) -> None:
    role = roles.is_killed_between_two_tensors
    outcome = run(tmp_path, Training(double=True), roles.serves, role, role)
    assert outcome.exits == [1, KILLED, KILLED]
    expected = "RuntimeError: no worker is left after 4 pushes: worker 1 died; worker 2 died"
    assert outcome.errors[0] == expected


def test_a_silent_worker_counts_as_lost(tmp_path: Path) -> None:
    training = Training(serve={"timeout": 4.0})
    outcome = run(
        tmp_path, training, roles.serves, roles.works_once_the_other_does, roles.is_silent
    )
    assert outcome.exits == [0, 0, 1], outcome.errors
    assert_every_sample_counts(outcome, training)
    silent = outcome.workers["worker 2"]
    assert silent == WorkerCounts(losses=Counter(["was silent for too long"]))
    assert outcome.errors[2] == "ConnectionError: the server died"


def test_no_two_processes_have_one_rank(tmp_path: Path) -> None:
    training = Training(serve={"grace": 0.5})
    outcome = run(tmp_path, training, roles.serves, roles.works, roles.comes_twice)
    assert outcome.exits == [0, 0, 1], outcome.errors
    assert "another process of this run has rank 1: are there two runs?" in outcome.errors[2]
    assert outcome.workers["worker 2"].losses == Counter(["did not come to be told of the end"])
