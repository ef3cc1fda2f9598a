"""Shuffled batches, epoch after epoch, that can be saved and go on where they stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yfkernels.lab.workloads.training import Batch

if TYPE_CHECKING:
    from typing_extensions import Self

Shown = Callable[[Tensor, torch.Generator], Tensor]


class ShuffledBatches:
    """An iterator without end; each epoch has an order of its own.

    Args:
        examples: inputs and targets, one row an example.
        batch_size: examples a batch, at most as many as there are; the rest of an epoch that fills
            no batch is dropped.
        seed: of the orders.
        shown: turns a batch's inputs into what the model sees; may draw from the generator.
    """

    def __init__(self, examples: Batch, *, batch_size: int, seed: int, shown: Shown) -> None:
        self._examples = examples
        self._batch_size = batch_size
        self._shown = shown
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        inputs, targets = self._examples
        end = self._position + self._batch_size
        if end > len(self._order):
            self._order = torch.randperm(len(targets), generator=self._generator)
            self._position, end = 0, self._batch_size
        chosen = self._order[self._position : end]
        self._position = end
        return self._shown(inputs[chosen], self._generator), targets[chosen]

    def state_dict(self) -> dict[str, Any]:
        """The place in the order of the examples."""
        return {
            "generator": self._generator.get_state(),
            "order": self._order,
            "position": self._position,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where others over the same examples stopped."""
        self._generator.set_state(state_dict["generator"])
        self._order, self._position = state_dict["order"], state_dict["position"]
