"""Small models with dense Hessians, quadratics, and all that a measurement could leave changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

Array = NDArray[np.float64]
Batches = list[tuple[Tensor, Tensor]]


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape))


def classification(
    rng: np.random.Generator, inputs: tuple[int, ...] = (6,), n: int = 23
) -> tuple[Tensor, Tensor]:
    return normal(rng, n, *inputs), torch.from_numpy(rng.integers(3, size=n))


def batches(x: Tensor, y: Tensor, size: int = 10) -> Batches:
    return list(zip(x.split(size), y.split(size)))


def redrawn(model: nn.Module, rng: np.random.Generator, dtype: torch.dtype = torch.float64) -> Any:
    """The model in this dtype, with weights that depend on the test's numbers alone."""
    model.to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(normal(rng, *p.shape) * (0.5 if p.dim() > 1 else 0.1))
    return model


def mlp(rng: np.random.Generator, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    model: nn.Sequential = redrawn(
        nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 5), act(), nn.Linear(5, 3)), rng
    )
    return model


def conv_net(rng: np.random.Generator) -> nn.Sequential:
    """For images of 2 channels and sides of 6."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2),
        nn.Flatten(), nn.LeakyReLU(0.2), nn.Linear(12, 3),
    )  # fmt: skip
    model: nn.Sequential = redrawn(net, rng)
    return model


def trained(model: nn.Module, x: Tensor, y: Tensor, steps: int = 150) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def of_flat(
    model: nn.Module, loss: Any, x: Tensor, y: Tensor
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The loss of one batch of all examples as a function of the flat weights, and these."""
    named = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def f(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in named.values()])
        weights = {name: part.view(p.shape) for (name, p), part in zip(named.items(), parts)}
        result: Tensor = loss(functional_call(model, weights, (x,)), y)
        return result

    return f, torch.cat([p.flatten() for p in named.values()])


def dense_hessian(model: nn.Module, loss: Any, x: Tensor, y: Tensor) -> Array:
    f, flat = of_flat(model, loss, x, y)
    found: Array = torch.autograd.functional.hessian(f, flat).numpy()
    return found


class Weights(nn.Module):
    """Parameters without a network; `mean_of` is the loss that goes with it."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(t.clone()) for t in tensors])

    def forward(self, example: Tensor) -> Tensor:
        return torch.cat([p.flatten() for p in self.parts])


class Quadratic:
    """f(x + e) = level + g·e + ½ eᵀ A e at the weights x; as model, loss and loader."""

    def __init__(self, a: Array, g: Array, x: Array, level: float = 0.5) -> None:
        self.a, self.g, self.x, self.level = a, g, x, level
        self.model = Weights(torch.from_numpy(x))
        self.loader = [(torch.zeros(2), torch.zeros(2))]
        self._tensors = [torch.from_numpy(t) for t in (a, g, x)]

    def loss(self, w: Tensor, target: Tensor) -> Tensor:
        a, g, x = self._tensors
        e = w - x
        return self.level + g @ e + 0.5 * e @ a @ e

    def rise(self, e: Array) -> float:
        return float(self.g @ e + 0.5 * e @ self.a @ e)


def symmetric(rng: np.random.Generator, eigenvalues: Any) -> Array:
    """With these eigenvalues, in random directions."""
    basis, _ = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))
    found: Array = (basis * np.asarray(eigenvalues)) @ basis.T
    return found


def corners(half: Array) -> Array:
    """All corners of the box |z_i| <= half_i, one a row."""
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * len(half))).reshape(len(half), -1).T
    found: Array = signs * half
    return found


def highest_corner(quadratic: Quadratic, moves: Array) -> float:
    """The largest rise; that of the box if the quadratic is convex."""
    return max(0.0, *(quadratic.rise(e) for e in moves))
