"""A small ordinary model and the few lines that train it, for the optimizer contract."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Build = Callable[..., torch.optim.Optimizer]


class Model(nn.Module):
    """Small and ordinary: matrices, vectors, a scalar, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.hidden = nn.Linear(12, 5)
        self.out = nn.Linear(5, 2)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.out(torch.tanh(self.hidden(self.conv(x).flatten(1))))


def backward(model: nn.Module, seed: int = 0) -> Tensor:
    """Gradients of a batch; the same batch for the same seed."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 1, 4, 4, generator=generator).to(device)
    loss = model(x).square().mean()
    loss.backward()
    return loss.detach()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5, seed: int = 0
) -> None:
    for k in range(steps):
        optimizer.zero_grad()
        backward(model, seed + k)
        optimizer.step()


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    after = values(model)
    return {name for name in before if not torch.equal(before[name], after[name])}
