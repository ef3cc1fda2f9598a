"""Optimizers that wrap the optimizer and share its groups and state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from programs.gradients import give_gradients
from programs.registry import action, one_of
from programs.side import HALF, Side
from torch.optim import Optimizer


class Wrapper(Optimizer):
    """Shares all that can be seen of its optimizer, as SAM, Lookahead and Accelerate do."""

    def __init__(self, base: Any) -> None:
        super().__init__([torch.zeros(1)], {})
        self.base = base
        self.share()

    def share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self.defaults = self.base.defaults

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.base.step(closure)


@action(2.0, neutral=True, loads=True)
def save_through_a_wrapper(side: Side, rng: np.random.Generator) -> None:
    """torch's own state_dict and load_state_dict see what is shared, and nothing else."""
    if any(p.dtype in HALF for p in side.params):
        return  # torch would round the state
    wrapper = Wrapper(side.optimizer)
    wrapper.load_state_dict(wrapper.state_dict())
    side.optimizer.param_groups = wrapper.param_groups
    if one_of(rng, 2):
        side.optimizer.state = wrapper.state


@action(neutral=True, loads=True)
def restart_through_a_wrapper(side: Side, rng: np.random.Generator) -> None:
    """Saved by torch's method alone, loaded by the optimizer's own."""
    saved = Wrapper(side.optimizer).state_dict()
    fresh = side.fresh()
    fresh.load_state_dict(saved)
    side.optimizer = fresh


@action()
def sharpness_aware_step(side: Side, rng: np.random.Generator) -> None:
    """A step uphill, gradients there, back, and the base's step."""
    wrapper = Wrapper(side.optimizer) if side.subject else None
    give_gradients(side, rng, density=1.0)
    kept = [p.detach().clone() for p in side.params]
    with torch.no_grad():
        for p in side.params:
            if p.grad is not None:
                p.add_(p.grad, alpha=0.01)
    give_gradients(side, rng, density=1.0)
    with torch.no_grad():
        for p, value in zip(side.params, kept):
            p.copy_(value)
    side.step(run=wrapper.step if wrapper else None)


@action()
def look_ahead(side: Side, rng: np.random.Generator) -> None:
    """Some fast steps, then the mean of where they led and where they began."""
    slow = [p.detach().clone() for p in side.params]
    wrapper = Wrapper(side.optimizer) if side.subject else None
    for _ in range(2):
        give_gradients(side, rng)
        side.step(run=wrapper.step if wrapper else None)
    with torch.no_grad():
        for p, value in zip(side.params, slow):
            p.lerp_(value, 0.5)
