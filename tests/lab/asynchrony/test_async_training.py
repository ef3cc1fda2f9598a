"""The server's side of an asynchronous run: what is read of optimizers, and what is evaluated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("sklearn")

from torch import nn

from yfkernels import ClosedLoop
from yfkernels.asynchronous import Simulator
from yfkernels.asynchronous.engines.simulator import round_robin
from yfkernels.lab.asynchrony.optimizers import read_optimizer
from yfkernels.lab.asynchrony.options import Options
from yfkernels.lab.asynchrony.training import Training
from yfkernels.lab.options import OptionError


def trained(optimizer: str, pushes: int = 12, workers: int = 2, **options: Any) -> Training:
    chosen = {"workload": "digits-mlp", "batch_size": 256, **options}
    training = Training(Options(optimizer=optimizer, **chosen).completed())
    simulator = Simulator(training.server, training.loss)
    for record in simulator.steps(round_robin(workers, pushes)):
        training.record(record)
    return training


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adamw:lr=0.002,betas=(0.8,0.99)", {"lr": 0.002, "momentum": 0.8}),
        ("lamb:lr=0.01,betas=(0.7,0.99)", {"lr": 0.01, "momentum": 0.7}),
        ("qhm:lr=0.5,beta=0.95", {"lr": 0.5, "momentum": 0.95}),
        ("sgd:lr=0.03,momentum=0.4,nesterov=true", {"lr": 0.03, "momentum": 0.4}),
        ("sgd:lr=0.03,momentum=0.4,weight_decay=0.1", {"lr": 0.03, "momentum": 0.4}),
    ],
)
def test_optimizers_that_nothing_is_measured_of(optimizer: str, expected: dict[str, float]) -> None:
    row = trained(optimizer, 4).rows[-1]
    others = {"target_momentum": None, "total_momentum": None}
    assert {name: row[name] for name in ("lr", "momentum", *others)} == {**expected, **others}


def test_the_total_momentum_of_sgd() -> None:
    """Without staleness it is what was set; the first step has no move before it."""
    training = trained("sgd:lr=0.01,momentum=0.7", workers=1)
    totals = [row["total_momentum"] for row in training.rows]
    assert totals[0] is None
    assert totals[1:] == pytest.approx([0.7] * 11, abs=2e-3)
    stale = trained("sgd:lr=0.01,momentum=0.7", workers=3).rows
    known = [row["total_momentum"] is not None for row in stale]
    assert known == [False] * 3 + [True] * 9  # two moves before the gradient was taken


def test_a_weight_on_a_gradient_is_no_momentum() -> None:
    """The rule scales the gradient, and with it the own part of the move."""
    training = trained("sgd:lr=0.01,momentum=0", workers=2, rule="delay_adaptive", pushes=30)
    totals = [row["total_momentum"] for row in training.rows[4:]]
    plain = [row["total_momentum"] for row in trained("sgd:lr=0.005,momentum=0", 30).rows[4:]]
    assert totals == pytest.approx(plain, abs=0.05)


def test_yellowfin_closes_the_loop_unless_told_otherwise() -> None:
    closed = trained("yellowfin", 20, workers=4)
    last = closed.rows[-1]
    assert last["target_momentum"] > 0.3
    assert last["momentum"] < last["target_momentum"] - 0.3
    open_ = trained("yellowfin:closed_loop=false", 20, workers=4).rows
    assert all(row["momentum"] == row["target_momentum"] for row in open_)
    assert open_[-1]["total_momentum"] is not None
    plain = trained("yellowfin:closed_loop=false,robust=false", 6).rows[-1]
    assert plain["momentum"] is not None
    assert (plain["target_momentum"], plain["total_momentum"]) == (None, None)


@pytest.mark.parametrize(
    ("text", "loop", "setting"),
    [
        ("yellowfin", ClosedLoop(), "closed loop (defaults)"),
        ("YellowFin:closed_loop=true,window=10", ClosedLoop(), "closed loop (window 10)"),
        (
            "yellowfin:closed_loop=paper",
            ClosedLoop(every=1, compensate=False),
            "the paper's closed loop (defaults)",
        ),
        (
            "yellowfin:closed_loop=false",
            ClosedLoop(gain=0.0, compensate=False),
            "open loop (defaults)",
        ),
        (
            "yellowfin:closed_loop=false,robust=false,momentum_form=polyak",
            ClosedLoop(gain=0.0, compensate=False),
            "open loop (robust False, momentum_form polyak)",
        ),
        (
            "yellowfin:closed_loop=false,robust=false",
            None,
            "open loop (robust False)",
        ),
        (
            "yellowfin:closed_loop=false,robust=false,momentum_form=polyak,trust_ratio=true",
            None,
            "open loop (robust False, momentum_form polyak, trust_ratio True)",
        ),
    ],
)
def test_what_closed_loop_stands_for(text: str, loop: ClosedLoop | None, setting: str) -> None:
    recipe = read_optimizer(text)
    assert f"{recipe.label} ({recipe.setting})" == f"YellowFin, {setting}"
    feedback = recipe.build(nn.Linear(1, 1))._tuner.feedback
    assert (feedback and feedback.options) == loop


def test_a_loop_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="'polyak' or None with closed_loop"):
        read_optimizer("yellowfin:momentum_form=buffer,robust=false")


def test_the_evaluated_model_has_statistics_of_the_training_data() -> None:
    """Not those of the server's own model, which under a real engine has seen nothing."""
    training = trained("yellowfin", 60, workload="digits-conv", batch_size=64)
    found = training.evaluate()
    assert found == training.evaluate()
    assert found.accuracy > 0.5
    again = Training(training.options)
    again.server.load_state_dict(training.server.state_dict())
    assert again.evaluate() == found
    assert again.task.evaluate(again.model).loss > 1.5 * found.loss


def test_time_between_two_commands_does_not_count() -> None:
    training = trained("adamw", 5)
    assert training.timed == 4
    state = training.state_dict()
    state["seconds"] = 7.0
    again = Training(training.options)
    again.load_state_dict(state)
    record = next(Simulator(again.server, again.loss).steps([0]))
    again.record(record)
    assert (again.timed, again.seconds) == (4, 7.0)
    again.record(record)
    assert again.timed == 5
    assert 7.0 < again.seconds < 8.0


def test_options_are_completed_by_workload() -> None:
    text = Options(workload="text-lstm").completed()
    assert (text.batch_size, text.epochs, text.pushes) == (16, None, 1000)
    epochs = Options(workload="text-lstm", epochs=2).completed()
    assert (epochs.epochs, epochs.pushes) == (2, None)
    digits = Options().completed()
    assert (digits.batch_size, digits.epochs, digits.pushes) == (64, 20, None)
    assert (digits.staleness, Options(engine="ray").completed().staleness) == ("round-robin", None)
    assert digits == digits.completed()


def test_text_is_trained(threads: None) -> None:
    torch.set_num_threads(1)
    rows = trained("yellowfin", 6, workload="text-lstm", batch_size=4).rows
    assert rows[-1]["loss"] < rows[0]["loss"]
