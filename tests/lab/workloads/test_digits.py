"""The digits: what is split, shuffled, built and judged."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
import torch

pytest.importorskip("sklearn")

from yfkernels.lab.workloads.digits import digits_conv, digits_mlp
from yfkernels.lab.workloads.examples import ExamplesTask

TASKS = [digits_conv, digits_mlp]


@pytest.fixture(scope="module")
def task() -> ExamplesTask:
    return digits_mlp()


def test_split_holds_every_image_once(task: ExamplesTask) -> None:
    (training, training_labels), (test, test_labels) = task.training, task.test
    assert len(training) == len(training_labels) == 1347
    assert len(test) == len(test_labels) == 450
    both = torch.cat([training, test]).flatten(1)
    assert len(both.unique(dim=0)) == 1797


def test_images_are_scaled_to_one(task: ExamplesTask) -> None:
    images, _ = task.training
    assert images.shape[1:] == (1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0.0, 1.0)


def test_split_keeps_the_classes_balanced(task: ExamplesTask) -> None:
    for _, labels in (task.training, task.test):
        shares = labels.bincount(minlength=10) / len(labels)
        torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.005, rtol=0)


@pytest.mark.parametrize("make", TASKS)
def test_seed_decides_the_weights(make: Callable[[], ExamplesTask]) -> None:
    task = make()
    same, again, other = (
        torch.nn.utils.parameters_to_vector(task.model(seed).parameters()) for seed in (3, 3, 4)
    )
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_building_a_model_leaves_the_global_random_state(task: ExamplesTask) -> None:
    before = torch.get_rng_state()
    task.model(seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_conv_net_has_batch_norm() -> None:
    modules = digits_conv().model(seed=0).modules()
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in modules)


def test_an_epoch_shows_no_image_twice(task: ExamplesTask) -> None:
    epoch = list(islice(task.batches(seed=0), task.training_size // task.batch_size))
    images = torch.cat([images for images, _ in epoch]).flatten(1)
    assert all(len(labels) == task.batch_size for _, labels in epoch)
    assert len(images.unique(dim=0)) == len(images)


def test_seed_decides_the_batches(task: ExamplesTask) -> None:
    same, again, other = (
        torch.cat([labels for _, labels in islice(task.batches(seed), 30)]) for seed in (0, 0, 1)
    )
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


@pytest.mark.parametrize("make", TASKS)
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was(
    make: Callable[[], ExamplesTask], training: bool
) -> None:
    task = make()
    model = task.model(seed=0).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = task.evaluate(model)
    assert first == task.evaluate(model)
    assert model.training == training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_accuracy_of_a_model_that_always_says_zero(task: ExamplesTask) -> None:
    class AlwaysZero(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[torch.zeros(len(images), dtype=torch.long)]

    _, labels = task.test
    zeros = (labels == 0).sum().item()
    assert task.evaluate(AlwaysZero()).accuracy == pytest.approx(zeros / 450)


def test_evaluation_of_the_training_set_is_over_all_of_it(task: ExamplesTask) -> None:
    model = task.model(seed=0)
    whole = task.loss(model.eval(), task.training).item()
    assert task.evaluate_training(model).loss == pytest.approx(whole)
    assert task.evaluate(model).loss != pytest.approx(whole)


def test_held_out_images_are_from_the_training_set(task: ExamplesTask) -> None:
    tuning = task.held_out()
    (training, training_labels), (test, test_labels) = tuning.training, tuning.test
    assert (len(training_labels), len(test_labels)) == (1010, 337)
    both = torch.cat([training, test]).flatten(1)
    assert torch.equal(both.unique(dim=0), task.training[0].flatten(1).unique(dim=0))
    shares = test_labels.bincount(minlength=10) / 337
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)


def test_batches_of_another_size(task: ExamplesTask) -> None:
    resized = task.with_batch_size(1347)
    (_, labels), _ = islice(resized.batches(seed=0), 2)
    assert torch.equal(labels.sort().values, task.training[1].sort().values)
    assert "batch 1347" in resized.conditions
    assert task.batch_size == 64


@pytest.mark.parametrize("batch_size", [0, -1, 1348])
def test_a_batch_that_cannot_be_filled_is_refused(task: ExamplesTask, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size value: {batch_size}; it must be from 1 to"):
        task.with_batch_size(batch_size)


def test_examples_are_those_of_the_indices(task: ExamplesTask) -> None:
    images, labels = task.examples((5, 0, 5))
    torch.testing.assert_close(images, task.training[0][[5, 0, 5]], atol=0, rtol=0)
    assert labels.tolist() == task.training[1][[5, 0, 5]].tolist()
