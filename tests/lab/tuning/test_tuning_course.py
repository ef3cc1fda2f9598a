"""A training that is tuned: what it shows the model, and what it records."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from tiny_runs import STEPS_PER_EPOCH, tiny_task, tiny_training
from torch import Tensor

from yfkernels.lab.tuning import training as module
from yfkernels.lab.tuning.methods import METHODS
from yfkernels.lab.tuning.training import EVALUATIONS, Training
from yfkernels.lab.workloads.batches import ShuffledBatches


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def trained(steps: int, **options: object) -> Training:
    training = tiny_training(**options)
    training.begin()
    for _ in range(steps):
        training.take_step()
    return training


def images_of(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_learned_from_test_images(method: str) -> None:
    """Gradients: of training images in training mode, of validation images in eval mode."""
    training = tiny_training(method=method)
    seen: dict[bool, set[bytes]] = {True: set(), False: set()}

    def watch(network: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            seen[network[1].training] |= images_of(inputs[0])

    training.model.register_forward_pre_hook(watch)
    for _ in range(2 * STEPS_PER_EPOCH):
        training.take_step()
    assert seen[True] == images_of(training.task.training[0])
    validates = method in ("marthe", "rtho")
    assert seen[False] == (images_of(training.task.test[0]) if validates else set())
    assert not (seen[True] | seen[False]) & images_of(training.tested.test[0])
    assert len(seen[True]) == 72


def test_what_test_images_are_changes_nothing_but_their_own_accuracy() -> None:
    first = trained(2 * STEPS_PER_EPOCH)
    other = tiny_training()
    other.tested.test[0].neg_()
    other.begin()
    for _ in range(2 * STEPS_PER_EPOCH):
        other.take_step()
    for one, another in zip(first.rows, other.rows):
        assert {**one, "test_accuracy": 0} == {**another, "test_accuracy": 0}
    assert first.rows[-1]["test_accuracy"] != other.rows[-1]["test_accuracy"]


def test_a_row_for_every_step_of_a_short_run() -> None:
    training = trained(2 * STEPS_PER_EPOCH)
    assert training.total_steps == training.step == 2 * STEPS_PER_EPOCH
    assert [row["step"] for row in training.rows] == list(range(1, 19))
    assert [row["epoch"] for row in training.rows] == [1] * 9 + [2] * 9


def test_rows_of_a_long_run_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth step, and the end of every epoch."""
    monkeypatch.setattr(module, "ROWS", 5)
    training = trained(2 * STEPS_PER_EPOCH, method="constant")
    assert [row["step"] for row in training.rows] == [4, 8, 9, 12, 16, 18]


def test_an_epoch_is_evaluated_at_its_end() -> None:
    training = trained(2 * STEPS_PER_EPOCH, method="hd")
    ends = [row for row in training.rows if row["train_loss"] is not None]
    assert [row["step"] for row in ends] == [9, 18]
    for row in training.rows:
        assert all((row[name] is None) == (row not in ends) for name in EVALUATIONS)
    losses = [row["loss"] for row in training.rows]
    assert ends[0]["train_loss"] == pytest.approx(sum(losses[:9]) / 9)
    assert ends[1]["train_loss"] == pytest.approx(sum(losses[9:]) / 9)
    validation = training.task.evaluate(training.model)
    assert ends[1]["validation_loss"] == validation.loss
    assert ends[1]["validation_accuracy"] == validation.accuracy
    assert ends[1]["test_accuracy"] == training.tested.evaluate(training.model).accuracy


@pytest.mark.parametrize(
    ("method", "recorded"),
    [("marthe", {"lr", "mu", "hyper_lr"}), ("hd", {"lr", "hyper_lr"}), ("staircase", {"lr"})],
)
def test_rows_have_what_the_method_has(method: str, recorded: set[str]) -> None:
    (row,) = trained(1, method=method).rows
    assert {name for name in ("lr", "mu", "hyper_lr") if row[name] is not None} == recorded


def test_a_tiny_network_learns() -> None:
    training = trained(6 * STEPS_PER_EPOCH, num_epoch=6, lr=0.05)
    assert training.rows[-1]["validation_accuracy"] > 0.8  # type: ignore[operator]


def test_a_diverged_run_goes_on() -> None:
    training = trained(STEPS_PER_EPOCH, method="constant", lr=1e30)
    assert math.isnan(training.rows[-1]["train_loss"] or 0.0)
    assert training.rows[-1]["validation_accuracy"] is not None


def test_the_seed_decides_on_everything() -> None:
    first, again, other = (trained(STEPS_PER_EPOCH, seed=seed).rows for seed in (1, 1, 2))
    assert first == again
    assert first != other


# ---- batches


def test_batches_go_on_where_others_stopped() -> None:
    def batches(seed: int) -> ShuffledBatches:
        shown = lambda images, generator: images + torch.rand(1, generator=generator)  # noqa: E731
        examples = (torch.arange(10.0), torch.arange(10))
        return ShuffledBatches(examples, batch_size=3, seed=seed, shown=shown)

    left_alone = batches(1)
    for taken in range(8):
        resumed = batches(2)
        resumed.load_state_dict(left_alone.state_dict())
        expected = [next(left_alone)]
        assert all(
            torch.equal(one, other)
            for found, wanted in zip([next(resumed)], expected)
            for one, other in zip(found, wanted)
        ), taken


def test_validation_batches_are_as_large_as_can_be() -> None:
    task = tiny_task().held_out()
    assert len(next(task.test_batches(seed=0))[1]) == 8
    images, _ = next(task.with_batch_size(60).test_batches(seed=0))
    assert images_of(images) == images_of(task.test[0])
