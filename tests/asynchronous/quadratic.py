"""A quadratic loss on a server: each coordinate is a recursion of its own curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from yfkernels.asynchronous import Server, Simulator


class Polyak(torch.optim.Optimizer):
    """x <- x + mu (x - x before) - lr g, with mu of any sign: torch's SGD takes none below 0."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                move = self.state[param].setdefault("move", torch.zeros_like(param))
                move.mul_(group["momentum"]).sub_(group["lr"] * param.grad)
                param.add_(move)


class Quadratic:
    """½ Σ h x², in float64, with Polyak's momentum.

    Args:
        curvatures: h, of shape (n,).
        lr: learning rate.
        momentum: mu.
        start: x at first; 1 everywhere by default.
        push: a linear term for the first gradient alone: the impulse of a response.
    """

    def __init__(
        self,
        curvatures: Tensor,
        lr: float,
        momentum: float = 0.0,
        *,
        start: float = 1.0,
        push: float = 0.0,
    ) -> None:
        self.curvatures = curvatures.double()
        self.x = torch.nn.Parameter(torch.full_like(self.curvatures, start))
        self.server = Server([self.x], Polyak([self.x], lr, momentum))
        self.simulator = Simulator(self.server, self._loss)
        self._push = push

    def _loss(self, batch: object) -> Tensor:
        loss = (0.5 * self.curvatures * self.x.square() + self._push * self.x).sum()
        self._push = 0.0
        return loss

    def path(self, schedule: list[int]) -> Tensor:
        """x after every push of a schedule, of shape (pushes, n)."""
        steps = self.simulator.steps(schedule)
        return torch.stack([self.x.detach().clone() for _ in steps])
