"""The methods of methods.py, each around what does its work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from yfkernels import HD, MARTHE

Closure = Callable[[], Tensor]


class Stepped:
    """An optimizer that wants `backward()`, then `step()`."""

    def __init__(self, optimizer: Optimizer, grad_clipping: float | None) -> None:
        self.optimizer = optimizer
        self._grad_clipping = grad_clipping

    def step(self, loss: Closure, validation: Closure | None = None) -> Tensor:
        self.optimizer.zero_grad()
        value = loss()
        value.backward()
        if self._grad_clipping is not None:
            params = (p for group in self.optimizer.param_groups for p in group["params"])
            clip_grad_norm_(params, self._grad_clipping)
        self.optimizer.step()
        return value.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict["optimizer"])


class Descending(Stepped):
    """HD, which decides on the learning rate when it has the gradient."""

    optimizer: HD

    def diagnostics(self) -> dict[str, float]:
        found = self.optimizer.diagnostics()
        return {"lr": found["lr"][0], "mu": math.nan, "hyper_lr": found["hyper_lr"][0]}


class Scheduled(Stepped):
    """A schedule of torch's, advanced in every step; None: the learning rate is constant."""

    def __init__(
        self, optimizer: Optimizer, grad_clipping: float | None, schedule: LRScheduler | None
    ) -> None:
        super().__init__(optimizer, grad_clipping)
        self._schedule = schedule

    def step(self, loss: Closure, validation: Closure | None = None) -> Tensor:
        value = super().step(loss)
        if self._schedule is not None:
            self._schedule.step()
        return value

    def diagnostics(self) -> dict[str, float]:
        lr = float(self.optimizer.param_groups[0]["lr"])
        return {"lr": lr, "mu": math.nan, "hyper_lr": math.nan}

    def state_dict(self) -> dict[str, Any]:
        schedule = None if self._schedule is None else self._schedule.state_dict()
        return {**super().state_dict(), "schedule": schedule}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self._schedule is not None:
            self._schedule.load_state_dict(state_dict["schedule"])


class Tuned:
    """MARTHE or RTHO, which own the order of calls."""

    def __init__(self, tuner: MARTHE) -> None:
        self._tuner = tuner

    def step(self, loss: Closure, validation: Closure | None = None) -> Tensor:
        return self._tuner.step(loss, validation)

    def diagnostics(self) -> dict[str, float]:
        found = self._tuner.diagnostics()
        return {name: found[name][0] for name in ("lr", "mu", "hyper_lr")}

    def state_dict(self) -> dict[str, Any]:
        return self._tuner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._tuner.load_state_dict(state_dict)
