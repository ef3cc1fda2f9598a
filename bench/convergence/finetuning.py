"""Fine-tuning of a trained model, for `--module bench.convergence.finetuning`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial

from torch import nn
from torch.optim import AdamW, Optimizer

from bench.convergence.tasks import TaskSpec
from yfkernels.lab.workloads.text import TextTask, manual_transformer, text_transformer
from yfkernels.lab.workloads.training import train

STEPS_BEFORE = 1200


class FineTuning(TextTask):
    """A task that fine-tunes a model of Python's sources."""

    def model(self, seed: int) -> nn.Module:
        """The transformer as AdamW leaves it, with the rate that the grid found for it."""
        return deepcopy(_trained(seed))


@cache  # every contestant begins with it
def _trained(seed: int) -> nn.Module:
    sources = text_transformer()
    model = sources.model(seed)
    others = seed + 10_000  # not the batches that follow
    for _ in train(sources, model, _adamw(model, lr=3e-3), steps=STEPS_BEFORE, seed=others):
        pass
    return model


def manual_finetuning() -> FineTuning:
    """From code to prose."""
    return FineTuning(**vars(manual_transformer()))


def sources_finetuning() -> FineTuning:
    """More of the same."""
    return FineTuning(**vars(text_transformer()))


def _adamw(model: nn.Module, *, lr: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr, fused=True)


# a short running mean shows whether the loss rises first
TASKS: dict[str, TaskSpec] = {
    "manual-finetuning": TaskSpec(manual_finetuning, 800, smoothing=5, has_classes=False),
    "sources-finetuning": TaskSpec(sources_finetuning, 800, smoothing=5, has_classes=False),
}
CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    f"adamw-{lr:g}": partial(_adamw, lr=lr) for lr in (1e-4, 3e-4, 3e-3)
}
