"""Two trainings that differ in their batch, measured on their way, at their ends, and in between.

Source: Keskar et al., "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp
Minima", arXiv 1609.04836, whose measures are taken along the training as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from yfkernels import LAMB
from yfkernels.analysis import SharpnessMonitor, interpolated, sharpness
from yfkernels.analysis.landscape import LayerSharpness
from yfkernels.lab.recipes import Recipe
from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.large_batch import Course
from yfkernels.lab.workloads.training import Batch

Row = dict[str, Any]
Tables = dict[str, list[Row]]
TUNER = ("momentum", "h_min", "h_max")  # what YellowFin says of itself
SHARES = np.linspace(-1.0, 2.0, 25)  # of the large batch's solution
WATCHED = ("keskar", "adaptive", "lambda_max")  # along the way; the others at the end alone
AT_THE_END: dict[str, tuple[str, dict[str, Any]]] = {
    "keskar_5e-4": ("keskar", {"eps": 5e-4}),
    "keskar_subspace": ("keskar", {"subspace": 100}),
    "adaptive_l2": ("adaptive", {"p": 2}),
    "random": ("random", {}),
    "trace": ("trace", {}),
    "flatness": ("epsilon_flatness", {}),
}


@dataclass(frozen=True)
class Plan:
    """What every pair of trainings has in common.

    Attributes:
        batch_sizes: the small and the large.
        epochs: passes over the training examples.
        points: readings along a training.
        examples: training examples that sharpness is measured on.
    """

    batch_sizes: tuple[int, int]
    epochs: int
    points: int = 12
    examples: int = 500


class Trained(NamedTuple):
    """A training: its model, and rows of numbers."""

    model: nn.Module
    course: list[Row]
    layers: list[Row]


def pair(task: ExamplesTask, recipe: Recipe, lrs: Sequence[float], seed: int, plan: Plan) -> Tables:
    """Trains with both batches and measures.

    Args:
        task: what to train on.
        recipe: the optimizer.
        lrs: its learning rates, for the small batch and for the large.
        seed: of the weights and the batch order, the same for both batches.
        plan: what else there is to know.

    Returns:
        "course": a row for every reading; "layers": for every tensor in it, if the optimizer has
        trust ratios; "ends": for each training; "line": for each model on the line through the two.
    """
    tables: Tables = {"course": [], "layers": [], "ends": []}
    models = []
    for batch_size, lr in zip(plan.batch_sizes, lrs):
        resized = task.with_batch_size(batch_size)
        trained = _train(resized, recipe, lr, seed, plan)
        same = {"batch_size": batch_size}
        tables["course"] += [{**same, **row} for row in trained.course]
        tables["layers"] += [{**same, **row} for row in trained.layers]
        tables["ends"] += [{**same, "lr": lr, **_end(resized, trained, plan)}]
        models.append(trained.model)
    return {**tables, "line": list(_line(task, *models))}


def measured_on(task: ExamplesTask, plan: Plan) -> list[Batch]:
    """The training examples that sharpness is measured on."""
    return [task.examples(range(min(plan.examples, task.training_size)))]


def _train(task: ExamplesTask, recipe: Recipe, lr: float, seed: int, plan: Plan) -> Trained:
    course = Course(task, recipe, lr=lr, epochs=plan.epochs, seed=seed)
    examples = measured_on(task, plan)
    trained = Trained(course.model, [], [])
    monitor = SharpnessMonitor(course.model, task.criterion, examples, course.optimizer, every=None)
    shares = [((k + 1) / plan.points) ** 2 for k in range(plan.points)]  # denser at the beginning
    points = {math.ceil(course.steps * share) for share in shares}
    for record in course:
        if record.step not in points:
            continue
        reading = monitor.measure().row()
        at = {"step": record.step, "epoch": record.step * task.batch_size / task.training_size}
        values = {name: reading.get(name) for name in (*WATCHED, *TUNER)}
        trained.course.append({**at, **_results(task, course.model), **values})
        if isinstance(course.optimizer, LAMB):
            ratios = course.optimizer.trust_ratios()
            rows = _layers(task, course.model, ratios, examples)
            trained.layers.extend({**at, **row} for row in rows)
    return trained


def _results(task: ExamplesTask, model: nn.Module) -> Row:
    test, training = task.evaluate(model), task.evaluate_training(model)
    return {
        "train_loss": training.loss,
        "test_loss": test.loss,
        "train_accuracy": training.accuracy,
        "test_accuracy": test.accuracy,
    }


def _layers(
    task: ExamplesTask, model: nn.Module, ratios: Mapping[str, float], examples: list[Batch]
) -> Iterator[Row]:
    """Trust ratio and adaptive sharpness of each tensor."""
    found = sharpness(model, task.criterion, examples, "adaptive", per_layer=True)
    assert isinstance(found, LayerSharpness)
    for name, result in found.layers.items():
        yield {"layer": name, "trust_ratio": ratios[name], "adaptive": result.value}


def _end(task: ExamplesTask, trained: Trained, plan: Plan) -> Row:
    """The last reading, what else is measured at the end, and the lowest test loss on the way."""
    examples = measured_on(task, plan)
    last = trained.course[-1]
    best = min(trained.course, key=lambda row: row["test_loss"])
    measured = {
        column: sharpness(trained.model, task.criterion, examples, method, **options).value
        for column, (method, options) in AT_THE_END.items()
    }
    return {
        **{name: value for name, value in last.items() if name not in TUNER},
        **measured,
        "lowest_test_loss": best["test_loss"],
        "lowest_at_epoch": best["epoch"],
    }


def _line(task: ExamplesTask, small: nn.Module, large: nn.Module) -> Iterator[Row]:
    parts = torch.arange(task.training_size).split(500)
    for share in SHARES:
        model = interpolated(small, large, float(share))
        update_bn((task.examples(part.tolist()) for part in parts), model)
        yield {"share": float(share), **_results(task, model)}
