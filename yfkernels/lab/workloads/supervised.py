"""What tasks share that teach a model to answer: building it, its loss and its evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yfkernels.lab.workloads.training import Batch, Evaluation


@dataclass(frozen=True)
class SupervisedTask:
    """The part of a task that does not depend on where its batches come from.

    Attributes:
        title: what is trained, for people.
        build_model: makes an untrained model.
        criterion: mean loss of a model's output against the targets.
    """

    title: str
    build_model: Callable[[], nn.Module]
    criterion: Callable[[Tensor, Tensor], Tensor]

    def model(self, seed: int) -> nn.Module:
        """A freshly initialized model; torch's global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build_model()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The criterion's mean over the batch."""
        inputs, targets = batch
        return self.criterion(model(inputs), targets)

    @torch.no_grad()
    def _evaluation(self, model: nn.Module, batch: Batch) -> Evaluation:
        """Loss, and accuracy where the targets are classes (else NaN), in evaluation mode."""
        inputs, targets = batch
        was_training = model.training
        model.eval()
        outputs = self._outputs(model, inputs)
        model.train(was_training)
        right = math.nan
        if not targets.is_floating_point():
            right = (outputs.argmax(-1) == targets).double().mean().item()
        return Evaluation(loss=self.criterion(outputs, targets).item(), accuracy=right)

    def _outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """What is evaluated against the targets."""
        outputs: Tensor = model(inputs)
        return outputs
