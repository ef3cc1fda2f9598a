"""A run that was interrupted and resumed ends where one that was left alone does, to the bit."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from tiny_runs import STEPS_PER_EPOCH, tiny_training

from yfkernels.lab.interruption import interruption
from yfkernels.lab.options import OptionError
from yfkernels.lab.tuning import checkpoint, run
from yfkernels.lab.tuning.training import Training

RUNS: list[dict[str, Any]] = [
    {"method": "hd", "optimizer": "adamw"},
    {"method": "marthe", "optimizer": "sgd"},
    {"method": "marthe", "optimizer": "qhadam", "hyper_lr": 1e-5, "alpha": 1e-7, "mu": 0.7},
    {"method": "rtho", "optimizer": "adam"},
    {"method": "cosine-restarts", "optimizer": "qhm", "lr": 0.5, "grad_clipping": 1.0},
]


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """Figures take a second each."""
    monkeypatch.setattr(run, "report", lambda *_: None)


@pytest.fixture(params=RUNS, ids=lambda options: f"{options['method']}-{options['optimizer']}")
def options(request: pytest.FixtureRequest) -> Any:
    return request.param


def whole(options: dict[str, Any], folder: Path) -> Training:
    folder.mkdir()
    training = tiny_training(**options)
    assert run.run(training, folder)
    return training


def resumed(options: dict[str, Any], folder: Path) -> Training:
    """In a process whose random states are others."""
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    training = tiny_training(**options)
    run.resume(training, folder)
    return training


def assert_equal(found: Any, expected: Any) -> None:
    """Of nested states, to the bit."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, atol=0, rtol=0, equal_nan=True)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_equal(one, other)
    else:
        assert found == expected


def assert_same_end(found: Training, expected: Training, folder: Path, reference: Path) -> None:
    assert found.step == found.total_steps
    assert_equal(found.state_dict(), expected.state_dict())
    assert (folder / "tune.csv").read_bytes() == (reference / "tune.csv").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pt", "tune.csv"}


@pytest.mark.parametrize("steps", [4, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 5])
def test_a_kill(tmp_path: Path, options: dict[str, Any], steps: int) -> None:
    """In the first epoch, between two epochs, in the second; it goes on from the last one's end."""
    expected = whole(options, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    training = tiny_training(**options)
    take_step = training.take_step

    def take_step_or_die() -> None:
        if training.step == steps:
            raise Killed
        take_step()

    training.take_step = take_step_or_die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run.run(training, folder)
    training = resumed(options, folder)
    assert training.step == steps // STEPS_PER_EPOCH * STEPS_PER_EPOCH
    assert run.run(training, folder)
    assert_same_end(training, expected, folder, tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_step(
    tmp_path: Path, options: dict[str, Any], number: signal.Signals
) -> None:
    """It ends after that step, and nothing of the epoch is lost."""
    expected = whole(options, tmp_path / "whole")
    folder = tmp_path / "interrupted"
    folder.mkdir()
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    training = tiny_training(**options)

    def send(*_: Any) -> None:
        if training.step == 12:
            hook.remove()
            os.kill(os.getpid(), number)

    hook = training.model.register_forward_hook(send)
    assert not run.run(training, folder)
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    training = resumed(options, folder)
    assert training.step == 13
    assert run.run(training, folder)
    assert_same_end(training, expected, folder, tmp_path / "whole")


def test_the_second_interrupt_is_not_held_back() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background
    try:  # would ignore it
        _interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_twice() -> None:
    with interruption() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_kill_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, {"step": 1})

    def half(_: object, file: Any) -> None:
        file.write(b"PK half of it")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(Killed):
            checkpoint.save(tmp_path, {"step": 2})
    assert checkpoint.load(tmp_path) == {"step": 1}
    checkpoint.save(tmp_path, {"step": 3})
    assert checkpoint.load(tmp_path) == {"step": 3}


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    expected = whole({}, tmp_path / "whole")
    training = resumed({}, tmp_path / "whole")
    assert run.run(training, tmp_path / "whole")
    assert_equal(training.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    ("option", "value"),
    [("seed", 1), ("lr", 0.02), ("mu", 0.5), ("optimizer", "adam"), ("num_epoch", 3)],
)
def test_other_options_are_refused(tmp_path: Path, option: str, value: Any) -> None:
    whole({}, tmp_path / "whole")
    with pytest.raises(
        OptionError, match=f"Invalid {option} value: {value!r}; the run to resume"
    ) as e:
        resumed({option: value}, tmp_path / "whole")
    assert e.value.option == option


def test_random_states_come_back() -> None:
    def drawn() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()  # noqa: NPY002

    before = checkpoint.random_states()
    first = drawn()
    assert drawn() != first
    checkpoint.set_random_states(before)
    assert drawn() == first
    checkpoint.seed_all(3)
    first = drawn()
    checkpoint.seed_all(3)
    assert drawn() == first
