"""The digits: what is split, shuffled, built and judged."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
import torch

pytest.importorskip("sklearn")

from yfkernels.workloads.digits import DigitsTask, digits_conv, digits_mlp

TASKS = [digits_conv, digits_mlp]


@pytest.fixture(scope="module")
def task() -> DigitsTask:
    return digits_mlp()


def test_split_holds_every_image_once(task: DigitsTask) -> None:
    assert len(task.train_images) == len(task.train_labels) == 1347
    assert len(task.test_images) == len(task.test_labels) == 450
    both = torch.cat([task.train_images, task.test_images]).flatten(1)
    assert len(both.unique(dim=0)) == 1797


def test_images_are_scaled_to_one(task: DigitsTask) -> None:
    assert task.train_images.shape[1:] == (1, 8, 8)
    assert task.train_images.dtype == torch.float32
    assert (task.train_images.min(), task.train_images.max()) == (0.0, 1.0)


def test_split_keeps_the_classes_balanced(task: DigitsTask) -> None:
    for labels in (task.train_labels, task.test_labels):
        shares = labels.bincount(minlength=10) / len(labels)
        torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.005, rtol=0)


@pytest.mark.parametrize("make", TASKS)
def test_seed_decides_the_weights(make: Callable[[], DigitsTask]) -> None:
    task = make()
    same, again, other = (
        torch.nn.utils.parameters_to_vector(task.model(seed).parameters()) for seed in (3, 3, 4)
    )
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_building_a_model_leaves_the_global_random_state(task: DigitsTask) -> None:
    before = torch.get_rng_state()
    task.model(seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_conv_net_has_batch_norm() -> None:
    modules = digits_conv().model(seed=0).modules()
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in modules)


def test_an_epoch_shows_no_image_twice(task: DigitsTask) -> None:
    epoch = list(islice(task.batches(seed=0), len(task.train_labels) // task.batch_size))
    images = torch.cat([images for images, _ in epoch]).flatten(1)
    assert all(len(labels) == task.batch_size for _, labels in epoch)
    assert len(images.unique(dim=0)) == len(images)


def test_seed_decides_the_batches(task: DigitsTask) -> None:
    same, again, other = (
        torch.cat([labels for _, labels in islice(task.batches(seed), 30)]) for seed in (0, 0, 1)
    )
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


@pytest.mark.parametrize("make", TASKS)
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was(
    make: Callable[[], DigitsTask], training: bool
) -> None:
    task = make()
    model = task.model(seed=0).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = task.evaluate(model)
    assert first == task.evaluate(model)
    assert model.training == training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_accuracy_of_a_model_that_always_says_zero(task: DigitsTask) -> None:
    class AlwaysZero(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[torch.zeros(len(images), dtype=torch.long)]

    zeros = (task.test_labels == 0).sum().item()
    assert task.evaluate(AlwaysZero()).accuracy == pytest.approx(zeros / 450)


def test_evaluation_of_the_training_set_is_over_all_of_it(task: DigitsTask) -> None:
    model = task.model(seed=0)
    whole = task.loss(model.eval(), (task.train_images, task.train_labels)).item()
    assert task.evaluate_training(model).loss == pytest.approx(whole)
    assert task.evaluate(model).loss != pytest.approx(whole)


def test_held_out_images_are_from_the_training_set(task: DigitsTask) -> None:
    tuning = task.held_out()
    assert (len(tuning.train_labels), len(tuning.test_labels)) == (1010, 337)
    both = torch.cat([tuning.train_images, tuning.test_images]).flatten(1)
    assert torch.equal(both.unique(dim=0), task.train_images.flatten(1).unique(dim=0))
    shares = tuning.test_labels.bincount(minlength=10) / 337
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)


def test_batches_of_another_size(task: DigitsTask) -> None:
    resized = task.with_batch_size(1347)
    (_, labels), _ = islice(resized.batches(seed=0), 2)
    assert torch.equal(labels.sort().values, task.train_labels.sort().values)
    assert "batch 1347" in resized.conditions
    assert task.batch_size == 64


@pytest.mark.parametrize("batch_size", [0, -1, 1348])
def test_a_batch_that_cannot_be_filled_is_refused(task: DigitsTask, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size value: {batch_size}; it must be from 1 to"):
        task.with_batch_size(batch_size)
