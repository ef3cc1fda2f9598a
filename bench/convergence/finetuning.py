"""Fine-tuning of a trained model, for `--module bench.convergence.finetuning`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from bench.convergence.tasks import TaskSpec
from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.mnist import mnist_conv
from yfkernels.lab.workloads.pronunciation import pronunciation, why_absent
from yfkernels.lab.workloads.text import TextTask, manual_transformer, text_transformer
from yfkernels.lab.workloads.training import Batch, Task, train

STEPS_BEFORE = 1200  # on the sources
DIGIT_STEPS_BEFORE = 300  # on half of the digits, which are learned by then
FIRST_DIGITS = 5  # 0 to 4


class TextFineTuning(TextTask):
    """A task that fine-tunes a model of Python's sources."""

    def model(self, seed: int) -> nn.Module:
        """The transformer as AdamW leaves it, with the rate that the grid found for it."""
        return deepcopy(_trained(text_transformer, 3e-3, STEPS_BEFORE, seed))


class DigitFineTuning(ExamplesTask):
    """A task that fine-tunes a model of the digits 0 to 4."""

    def model(self, seed: int) -> nn.Module:
        """The conv net as AdamW leaves it, with its default rate."""
        return deepcopy(_trained(_first_digits, 1e-3, DIGIT_STEPS_BEFORE, seed))


@cache  # every contestant begins with it
def _trained(build: Callable[[], Task], lr: float, steps: int, seed: int) -> nn.Module:
    task = build()
    model = task.model(seed)
    others = seed + 10_000  # not the batches that follow
    for _ in train(task, model, _adamw(model, lr=lr), steps=steps, seed=others):
        pass
    return model


def manual_finetuning() -> TextFineTuning:
    """From code to prose."""
    return TextFineTuning(**vars(manual_transformer()))


def sources_finetuning() -> TextFineTuning:
    """More of the same."""
    return TextFineTuning(**vars(text_transformer()))


def digits_finetuning() -> DigitFineTuning:
    """From five classes to ten; of the five new ones the model has learned that they never come."""
    return DigitFineTuning(**vars(mnist_conv()))


def _first_digits() -> ExamplesTask:
    whole = mnist_conv()
    return replace(whole, training=_first(whole.training), test=_first(whole.test))


def _first(examples: Batch) -> Batch:
    images, labels = examples
    kept = torch.nonzero(labels < FIRST_DIGITS).squeeze(1)
    return images[kept], labels[kept]


def _adamw(model: nn.Module, *, lr: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr, fused=True)


# a short running mean shows whether the loss rises first
TASKS: dict[str, TaskSpec] = {
    "manual-finetuning": TaskSpec(manual_finetuning, 800, smoothing=5, has_classes=False),
    "sources-finetuning": TaskSpec(sources_finetuning, 800, smoothing=5, has_classes=False),
    "pronunciation-finetuning": TaskSpec(pronunciation, 800, smoothing=5, has_classes=False),
    "digits-finetuning": TaskSpec(digits_finetuning, 300, smoothing=5),
}
ABSENT: dict[str, str] = {}
if (_reason := why_absent()) is not None:
    ABSENT["pronunciation-finetuning"] = _reason
    del TASKS["pronunciation-finetuning"]
CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    f"adamw-{lr:g}": partial(_adamw, lr=lr) for lr in (1e-4, 3e-4, 3e-3)
}
