"""The Ray engine with real processes: what is applied is counted exactly, whatever goes wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from asynchronous.engines.ray_roles import (
    PADDING,
    SAMPLES,
    MakeServer,
    MakeWorker,
    make_broken_server,
)

from yfkernels.asynchronous import Refusal
from yfkernels.asynchronous.engines import ray as engine

ray = pytest.importorskip("ray", reason="there is no Ray here; `make test-ray` installs it")

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 2  # server_of's
BATCH = 2
PUSHES = EPOCHS * SAMPLES // BATCH


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One for all tests, whose processes find the tests' modules."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def train(make_server: Any, make_worker: Any, workers: int = 2, **options: Any) -> engine.Outcome:
    return engine.train(
        make_server, make_worker, workers=workers, worker_options={"num_cpus": 0}, **options
    )


def counts(outcome: engine.Outcome) -> torch.Tensor:
    return outcome.parameters[0][:SAMPLES]


def assert_exact(outcome: engine.Outcome, given_up: int = 0) -> None:
    """Every sample counts once an epoch, but for those of batches that were given up."""
    seen = counts(outcome)
    assert (seen <= EPOCHS).all()
    assert float(seen.sum()) == EPOCHS * SAMPLES - BATCH * given_up
    assert outcome.pushes == outcome.log.applied == PUSHES - given_up
    assert outcome.pushes == sum(worker.applied for worker in outcome.workers.values())


def losses(outcome: engine.Outcome) -> list[str]:
    """Why workers were lost."""
    return [reason for worker in outcome.workers.values() for reason in worker.losses.elements()]


def refusals(outcome: engine.Outcome) -> dict[Refusal, int]:
    return dict(outcome.log.refusals)


def test_workers_train_together(tmp_path: Path) -> None:
    outcome = train(MakeServer(), MakeWorker(tmp_path), workers=3)
    assert_exact(outcome)
    assert losses(outcome) == []
    assert refusals(outcome) == {}
    assert sorted(outcome.workers) == ["worker 1", "worker 2", "worker 3"]


@pytest.mark.parametrize("repeat", range(3))
def test_a_worker_is_killed_in_the_middle_of_a_push(repeat: int, tmp_path: Path) -> None:
    outcome = train(MakeServer(PADDING), MakeWorker(tmp_path, "killed", PADDING))
    assert_exact(outcome)
    assert losses(outcome) == ["died"]


def test_a_worker_joins_late(tmp_path: Path) -> None:
    (tmp_path / "joined").unlink(missing_ok=True)
    make_worker = MakeWorker(tmp_path, "joins")
    with engine.start(MakeServer(), make_worker, workers=1, worker_options={"num_cpus": 0}) as run:
        run.add(1)
        (tmp_path / "joined").touch()
        outcome = run.wait()
    assert_exact(outcome)
    assert losses(outcome) == []
    assert len(outcome.workers) == 2


def test_a_worker_sleeps(tmp_path: Path) -> None:
    """Its batch is lent to the other; what it pushes in the end is refused, and it goes on."""
    server = MakeServer(options={"patience": 0.5})
    outcome = train(server, MakeWorker(tmp_path, "sleeps"))
    assert_exact(outcome)
    assert losses(outcome) == []
    unused = sum(worker.unused for worker in outcome.workers.values())
    assert refusals(outcome).get(Refusal.LEASE, 0) + unused == 1


def test_a_gradient_is_too_old(tmp_path: Path) -> None:
    server = MakeServer(options={"max_staleness": 0})
    outcome = train(server, MakeWorker(tmp_path, "is_overtaken"))
    assert_exact(outcome)
    assert losses(outcome) == []
    assert refusals(outcome).keys() == {Refusal.STALE}
    assert set(outcome.log.staleness) == {0}


def test_gradients_are_not_finite(tmp_path: Path) -> None:
    outcome = train(MakeServer(), MakeWorker(tmp_path, "makes_nan"))
    assert_exact(outcome, given_up=2)
    assert refusals(outcome) == {Refusal.NONFINITE: 2}


def test_a_worker_has_another_model(tmp_path: Path) -> None:
    outcome = train(MakeServer(), MakeWorker(tmp_path, "another_model"))
    assert_exact(outcome)
    (reason,) = losses(outcome)
    assert "another model" in reason


def test_a_worker_raises(tmp_path: Path) -> None:
    outcome = train(MakeServer(), MakeWorker(tmp_path, "raises"))
    assert_exact(outcome)
    assert losses(outcome) == ["raised ValueError: no data"]


def test_all_workers_are_lost_and_another_one_comes(tmp_path: Path) -> None:
    make_worker = MakeWorker(tmp_path, "raises")
    with engine.start(MakeServer(), make_worker, workers=1, worker_options={"num_cpus": 0}) as run:
        need = "no worker is left after 0 pushes: worker 1 raised ValueError: no data"
        with pytest.raises(RuntimeError, match=need) as caught:
            run.wait()
        assert isinstance(caught.value.__cause__, ValueError)
        run.add(1)
        assert_exact(run.wait())


def test_a_worker_does_not_come_to_be_told(tmp_path: Path) -> None:
    server = MakeServer(options={"patience": 0.5})
    outcome = train(server, MakeWorker(tmp_path, "sleeps_for_ever"), grace=0.5)
    assert_exact(outcome)
    assert losses(outcome) == ["did not come to be told of the end"]


def test_the_server_is_killed_and_resumes(tmp_path: Path) -> None:
    """From the checkpoint of step 4: what came after it is done again."""
    server = MakeServer(checkpoint=tmp_path / "run.pt", dies_at=7)
    with pytest.raises(ConnectionError, match="resumes its checkpoint"):
        train(server, MakeWorker(tmp_path))
    assert (tmp_path / "died").exists()
    outcome = train(server, MakeWorker(tmp_path))
    assert_exact(outcome)


def test_an_error_of_the_optimizer_ends_training(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="the step is broken"):
        train(make_broken_server, MakeWorker(tmp_path, "without_batches"))


def test_stop_ends_training(tmp_path: Path) -> None:
    with engine.start(
        MakeServer(), MakeWorker(tmp_path, "joins"), workers=1, worker_options={"num_cpus": 0}
    ) as run:
        run.stop()
        (tmp_path / "joined").touch()
        assert run.wait().pushes < PUSHES


def test_an_interrupt_tells_the_workers_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MakeServer(checkpoint=tmp_path / "run.pt", options={"epochs": 10_000})
    looks = iter(range(1000))
    wait = ray.wait

    def interrupted(*args: Any, **options: Any) -> Any:
        if next(looks) == 2:
            raise KeyboardInterrupt
        return wait(*args, **options)

    with engine.start(
        server, MakeWorker(tmp_path), workers=2, worker_options={"num_cpus": 0}
    ) as run:
        monkeypatch.setattr(ray, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.wait()
        outcome = run.wait()
    assert losses(outcome) == []
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    assert saved["server"]["version"] == outcome.pushes == int(counts(outcome).sum()) // BATCH


def test_an_address_beside_a_connection() -> None:
    with pytest.raises(ValueError, match="Invalid address value: 'auto'; it must be None"):
        engine.start(MakeServer(), MakeWorker(Path()), workers=1, address="auto")


def test_more_workers_than_cpus_are_told(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="3 workers need 6 CPUs and the cluster has 4"):
        outcome = engine.train(
            MakeServer(), MakeWorker(tmp_path), workers=3, worker_options={"num_cpus": 2}
        )
    assert_exact(outcome)
