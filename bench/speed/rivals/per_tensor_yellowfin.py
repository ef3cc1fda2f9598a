"""YellowFin the way it is usually written: plain tensor operations, one parameter at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_EPS = 1e-6
_INITIAL_LR = 1e-4
_NORM_GUARD = 10.0  # the statistics admit gradients up to 10 sqrt(h_max)
_LARGEST_MOVE = 100.0


class PerTensorYellowFin:
    """The published algorithm with its adaptive clip, tuned in Python around a for-loop SGD.

    It has the cost structure of the authors' PyTorch release: squares are formed as temporaries,
    ‖ḡ‖² is read back tensor by tensor, clipping scales `p.grad` in place. It is kinder to itself in
    two ways: every scalar is a Python float, and the cubic is solved in double precision. The
    release's periodic copy of the whole model, for rolling back, is left out.

    Args:
        params: parameters, every one with a dense `.grad` when `step` is called.
        beta: decay of all running averages.
        window: number of squared gradient norms in the curvature window.
    """

    def __init__(self, params: Iterable[Tensor], beta: float = 0.999, window: int = 20) -> None:
        self.params = list(params)
        self.beta = beta
        self.window = window
        self.sgd = torch.optim.SGD(self.params, lr=_INITIAL_LR, momentum=0.0, foreach=False)
        self.state = self.sgd.state
        self.iteration = 0
        self.recent: list[float] = []
        self.h_max = self.log_h_min_avg = self.log_h_max_avg = 0.0
        self.norm_squared_avg = self.norm_avg = self.distance_avg = 0.0

    @torch.no_grad()
    def step(self) -> None:
        """Measure every gradient, tune learning rate and momentum, then apply SGD."""
        if self.iteration >= 2:
            self._clip(_NORM_GUARD * math.sqrt(self.h_max) + _EPS)
        squares = sum(torch.sum(grad * grad) for grad in self._gradients())
        norm_squared = float(squares)
        explosion_limit = self.h_max
        exploding = self.iteration >= 1 and norm_squared >= explosion_limit
        self._tune(norm_squared)
        if exploding:
            self._clip(math.sqrt(explosion_limit) + _EPS)
        self.sgd.step()
        self.iteration += 1

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.params if p.grad is not None]

    def _clip(self, max_norm: float) -> None:
        norm = math.sqrt(sum(float(grad.norm()) ** 2 for grad in self._gradients()))
        scale = max_norm / (norm + _EPS)
        if scale < 1.0:
            for grad in self._gradients():
                grad.mul_(scale)

    def _tune(self, norm_squared: float) -> None:
        beta = self.beta
        debias = 1.0 - beta ** (self.iteration + 1)

        self.norm_squared_avg = self._averaged(self.norm_squared_avg, norm_squared)
        self.recent = [*self.recent, norm_squared][-self.window :]
        self.log_h_min_avg = self._averaged(self.log_h_min_avg, math.log(min(self.recent) + _EPS))
        self.log_h_max_avg = self._averaged(self.log_h_max_avg, math.log(max(self.recent) + _EPS))
        h_min = math.exp(self.log_h_min_avg / debias)
        self.h_max = math.exp(self.log_h_max_avg / debias)

        mean_norm_squared = self._average_gradients() / debias**2
        variance = max(self.norm_squared_avg / debias - mean_norm_squared, _EPS)

        self.norm_avg = self._averaged(self.norm_avg, math.sqrt(norm_squared))
        self.distance_avg = self._averaged(
            self.distance_avg, self.norm_avg / (self.norm_squared_avg + _EPS)
        )
        if self.iteration == 0:
            return

        lr, momentum = _single_step(self.distance_avg / debias, variance, h_min, self.h_max)
        lr *= min(1.0, (self.iteration + 1) / (10.0 * self.window))
        if lr * math.sqrt(norm_squared) >= _LARGEST_MOVE:
            lr = _LARGEST_MOVE / math.sqrt(norm_squared + _EPS)
        for group in self.sgd.param_groups:
            group["lr"], group["momentum"] = lr, momentum

    def _average_gradients(self) -> float:
        """Advance every ḡ and return the squared norm of all of them."""
        total = 0.0
        for param in self.params:
            state = self.state[param]
            if "grad_avg" not in state:
                state["grad_avg"] = torch.zeros_like(param)
            average = state["grad_avg"]
            average.mul_(self.beta).add_(param.grad, alpha=1.0 - self.beta)
            total += torch.sum(average * average).item()
        return total

    def _averaged(self, average: float, value: float) -> float:
        return self.beta * average + (1.0 - self.beta) * value


def _single_step(
    distance: float, variance: float, h_min: float, h_max: float
) -> tuple[float, float]:
    """Minimize mu D² + lr² C over the robust region (arXiv 1706.03471, equation 15)."""
    p = (distance + _EPS) ** 2 * (h_min + _EPS) ** 2 / (2.0 * (variance + _EPS))
    root = 1.0 - 2.0 * math.sqrt(p / 3.0) * math.sinh(math.asinh(1.5 * math.sqrt(3.0 / p)) / 3.0)
    condition = math.sqrt(max((h_max + _EPS) / (h_min + _EPS), 1.0 + _EPS))
    momentum = max(root**2, ((condition - 1.0) / (condition + 1.0)) ** 2)
    return (1.0 - math.sqrt(momentum)) ** 2 / (h_min + _EPS), momentum
