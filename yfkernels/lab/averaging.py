"""The same average of the weights for every optimizer, those of torch too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, update_bn

from yfkernels import WeightAverage
from yfkernels.lab.workloads.training import Task


class Averaging:
    """Averages a model's weights beside its training, by the formula of `WeightAverage`.

    An optimizer that keeps averages itself is asked for them, any other is followed from outside.

    Args:
        task: what the model is trained on.
        model: the model, before its first step.
        optimizer: what trains it.
        seed: of the batches from which statistics of batch normalization are taken.
    """

    def __init__(self, task: Task, model: nn.Module, optimizer: Optimizer, *, seed: int) -> None:
        self._task, self._model, self._seed = task, model, seed
        self._average = WeightAverage()
        self._own = optimizer if optimizer.param_groups[0].get("average") else None
        self._copy = None if self._own else AveragedModel(model, avg_fn=self._moved)
        self._step = 0

    def follow(self) -> None:
        """After every step."""
        self._step += 1
        if self._copy is not None and self._average.is_due(self._step):
            self._copy.update_parameters(self._model)

    def _moved(self, average: Tensor, weight: Tensor, _: Tensor | int) -> Tensor:
        return torch.lerp(average, weight, min(1.0, self._average.share(self._step)))

    @contextmanager
    def model(self) -> Iterator[nn.Module]:
        """The model at the average, its statistics of batch normalization taken there."""
        batches = self._task.training_size // self._task.batch_size
        epoch = list(islice(self._task.batches(self._seed), batches))
        if self._own is not None:
            with self._own.averaged(self._model, epoch):  # type: ignore[attr-defined]
                yield self._model
            return
        assert self._copy is not None
        update_bn(epoch, self._copy)
        yield self._copy.module
