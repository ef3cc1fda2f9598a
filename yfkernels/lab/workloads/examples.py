"""Tasks on labeled examples held in memory: tensors, a model, a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from yfkernels._checks import require
from yfkernels.lab.workloads.batches import ShuffledBatches
from yfkernels.lab.workloads.supervised import SupervisedTask
from yfkernels.lab.workloads.training import Batch, Evaluation

TEST_FRACTION = 0.25
EVALUATED = 1000  # examples at once


def split_last(inputs: Tensor, targets: Tensor, *, count: int) -> tuple[Batch, Batch]:
    """Splits off the last `count` examples as the test set."""
    return (inputs[:-count], targets[:-count]), (inputs[-count:], targets[-count:])


def split_quarter(inputs: Tensor, targets: Tensor) -> tuple[Batch, Batch]:
    """Splits off a quarter of the examples as the test set, always the same ones."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    test, training = order.tensor_split([int(TEST_FRACTION * len(order))])
    return (inputs[training], targets[training]), (inputs[test], targets[test])


@dataclass(frozen=True)
class ExamplesTask(SupervisedTask):
    """Training on rows of tensors.

    Attributes:
        training: inputs and targets, one row an example.
        test: the same, not used in training. Integer targets are classes and give an accuracy.
        batch_size: examples a step; the rest of an epoch that fills no batch is dropped.
        split: parts inputs and targets into training and test examples, for `held_out`.

    Raises:
        ValueError: a batch is empty or larger than the training set.
    """

    training: Batch
    test: Batch
    batch_size: int = 64
    split: Callable[[Tensor, Tensor], tuple[Batch, Batch]] = split_quarter

    def __post_init__(self) -> None:
        require(
            1 <= self.batch_size <= self.training_size,
            "batch_size",
            self.batch_size,
            f"from 1 to {self.training_size}, the number of training examples",
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
        """The training examples alone, part of them split off as the test set: for tuning."""
        training, test = self.split(*self.training)
        return replace(self, training=training, test=test)

    def examples(self, indices: Sequence[int]) -> Batch:
        """The training examples of the indices, as the model is evaluated on them."""
        inputs, targets = self.training
        chosen = torch.tensor(indices)
        return self._plain(inputs[chosen]), targets[chosen]

    def batches(self, seed: int) -> ShuffledBatches:
        """Shuffled batches, epoch after epoch."""
        return ShuffledBatches(
            self.training, batch_size=self.batch_size, seed=seed, shown=self._shown
        )

    def test_batches(self, seed: int) -> ShuffledBatches:
        """The same of the test examples, as an evaluation shows them; smaller if there are few.

        Of a task from `held_out`, they are what a tuner may validate on.
        """
        size = min(self.batch_size, len(self.test[1]))
        return ShuffledBatches(
            self.test, batch_size=size, seed=seed, shown=lambda inputs, _: self._plain(inputs)
        )

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Test loss, and accuracy where the targets are classes (else NaN), in evaluation mode."""
        return self._evaluation(model, self.test)

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        """The same on the whole training set."""
        return self._evaluation(model, self.training)

    def _shown(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """A batch's inputs as the model trains on them; may draw from the generator."""
        return self._plain(inputs)

    def _plain(self, inputs: Tensor) -> Tensor:
        """Inputs as the model is evaluated on them."""
        return inputs

    def _outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return torch.cat([model(self._plain(some)) for some in inputs.split(EVALUATED)])
