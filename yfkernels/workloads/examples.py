"""Tasks on labelled examples held in memory: tensors, a model, a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from yfkernels.workloads.training import Batch, Evaluation

TEST_FRACTION = 0.25


@dataclass(frozen=True)
class ExamplesTask:
    """Training on rows of tensors.

    Attributes:
        title: what is trained, for people.
        build_model: makes an untrained model.
        criterion: mean loss of a model's output against the targets.
        training: inputs and targets, one row an example.
        test: the same, never trained on. Integer targets are classes and give an accuracy.
        batch_size: examples a step; the rest of an epoch that fills no batch is dropped.

    Raises:
        ValueError: a batch is empty or larger than the training set.
    """

    title: str
    build_model: Callable[[], nn.Module]
    criterion: Callable[[Tensor, Tensor], Tensor]
    training: Batch
    test: Batch
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.training_size:
            raise ValueError(
                f"Invalid batch_size value: {self.batch_size}; "
                f"it must be from 1 to {self.training_size}, the number of training examples"
            )

    @property
    def training_size(self) -> int:
        """Number of training examples."""
        return len(self.training[1])

    @property
    def conditions(self) -> str:
        """Sizes of the data and of a batch, for people."""
        return (
            f"{self.training_size} training and {len(self.test[1])} test examples, "
            f"batch {self.batch_size}"
        )

    def with_batch_size(self, batch_size: int) -> ExamplesTask:
        """The same task with batches of another size."""
        return replace(self, batch_size=batch_size)

    def held_out(self) -> ExamplesTask:
        """The training examples alone, a quarter of them held out as the test set: for tuning."""
        training, test = quarter_off(*self.training)
        return replace(self, training=training, test=test)

    def model(self, seed: int) -> nn.Module:
        """A freshly initialised model; torch's global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build_model()

    def batches(self, seed: int) -> Iterator[Batch]:
        """Shuffled batches, epoch after epoch."""
        inputs, targets = self.training
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(self.training_size, generator=generator)
            for chosen in order.split(self.batch_size):
                if len(chosen) == self.batch_size:
                    yield inputs[chosen], targets[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The criterion's mean over the batch."""
        inputs, targets = batch
        return self.criterion(model(inputs), targets)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Test loss, and accuracy where the targets are classes (else NaN), in evaluation mode."""
        return self._evaluate(model, self.test)

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        """The same on the whole training set."""
        return self._evaluate(model, self.training)

    @torch.no_grad()
    def _evaluate(self, model: nn.Module, examples: Batch) -> Evaluation:
        inputs, targets = examples
        was_training = model.training
        model.eval()
        outputs = model(inputs)
        model.train(was_training)
        right = math.nan
        if not targets.is_floating_point():
            right = (outputs.argmax(1) == targets).double().mean().item()
        return Evaluation(loss=self.criterion(outputs, targets).item(), accuracy=right)


def quarter_off(inputs: Tensor, targets: Tensor) -> tuple[Batch, Batch]:
    """Splits off a quarter of the examples as the test set, always the same ones."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    test, training = order.tensor_split([int(TEST_FRACTION * len(order))])
    return (inputs[training], targets[training]), (inputs[test], targets[test])
