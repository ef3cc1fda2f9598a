"""Training whose result tells which samples were applied, and how often: sums of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yfkernels.asynchronous import Batches, FlatBuffers, Reply, Request, Server, Service


class Tally(nn.Module):
    """One number for each sample, all zero; the gradient of a batch is -1 at its samples.

    Args:
        samples: their number.
        padding: further float32 numbers that take no part.
        double: whether to have two dtypes, so that two tensors travel.
    """

    def __init__(self, samples: int, padding: int = 0, double: bool = False) -> None:
        super().__init__()
        self.counts = nn.Parameter(torch.zeros(samples))
        if padding:
            self.padding = nn.Parameter(torch.zeros(padding))
        if double:
            self.again = nn.Parameter(torch.zeros(samples, dtype=torch.float64))

    def loss(self, indices: list[int] | None) -> Tensor:
        assert indices is not None
        value = -self.counts[indices].sum()
        if hasattr(self, "again"):
            value = value - self.again[indices].sum()
        return value


def server_of(model: Tally, batch_size: int = 2, epochs: int = 2, **options: Any) -> Server:
    """SGD with lr 1: after all epochs each of the counts is the number of epochs, exactly."""
    patience = options.pop("patience", 60.0)
    batches = Batches(len(model.counts), batch_size, epochs=epochs, patience=patience)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return Server(model, optimizer, batches=batches, **options)


class Local:
    """A link without a wire."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def exchange(
        self, request: Request, gradient: Sequence[Tensor] | None, parameters: Sequence[Tensor]
    ) -> Reply:
        reply, snapshot = self._service.answer(request, gradient)
        if snapshot is not None:
            with snapshot as flats:
                for mine, theirs in zip(parameters, flats):
                    mine.copy_(theirs)
        return reply


def gradient_of(model: Tally, indices: list[int] | None) -> tuple[Tensor, ...]:
    """A worker's gradient, taken in a model of its own."""
    own = Tally(len(model.counts))
    buffers = FlatBuffers(own)
    own.loss(indices).backward()
    return buffers.gradients
