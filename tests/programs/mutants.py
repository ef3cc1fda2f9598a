"""Optimizers with a fault each, which the random programs have to find: torch's own, spoilt."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

_plain_step = inspect.unwrap(SGD.step)  # without hooks, which the mutant's own step calls


class Spoilt(SGD):
    """SGD that does something wrong before or after its step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.before()
        loss = _plain_step(self, closure)
        self.after()
        return loss

    def before(self) -> None:
        pass

    def after(self) -> None:
        pass

    def own(self, name: str) -> dict[Any, Any]:
        """A dict of this object, which neither copies nor files have."""
        kept: dict[Any, Any] = self.__dict__.setdefault(name, {})
        return kept

    def params(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])


class KeepsItsBuffers(Spoilt):
    """Steps with the momentum it made, whatever stands in `state` now."""

    def before(self) -> None:
        for p, buffer in self.own("made").items():
            self.state[p]["momentum_buffer"] = buffer

    def after(self) -> None:
        for p, state in self.state.items():
            self.own("made")[p] = state["momentum_buffer"]


class WritesToOldPlaces(Spoilt):
    """Writes to the memory in which a parameter was in its first step."""

    def after(self) -> None:
        for p in self.params():
            place = self.own("places").setdefault(p, p.detach())
            if place.data_ptr() != p.data_ptr():
                place.fill_(0.0)


class LoadsOnce(Spoilt):
    """Takes a second load for a mistake."""

    def load_state_dict(self, state_dict: Any) -> None:
        if self.own("loaded"):
            raise RuntimeError("this state was not saved by SGD")
        super().load_state_dict(state_dict)
        self.own("loaded")[0] = True


class ForgetsInFiles(Spoilt):
    """Has a part of what counts outside of `state`."""

    def after(self) -> None:
        steps = self.own("steps")
        steps[0] = steps.get(0, 0) + 1
        for p in self.params():
            if p.grad is not None:
                p.mul_(1.0 - 0.01 / steps[0])


class ChangesGradients(Spoilt):
    def after(self) -> None:
        for p in self.params():
            if p.grad is not None and p.dim() == 2 and 0 not in p.grad.stride():
                p.grad.mul_(0.5)


class MovesWithoutGradient(Spoilt):
    def after(self) -> None:
        for p in self.params():
            if p.grad is None:
                p.add_(self.state[p].get("momentum_buffer", 0.0), alpha=-0.05)


class Dies(Spoilt):
    """Of a state that was put there by hand."""

    def after(self) -> None:
        for p, state in self.state.items():
            buffer = state.get("momentum_buffer")
            if self.own("seen").setdefault(p, buffer) is not buffer:
                os.kill(os.getpid(), signal.SIGSEGV)


MUTANTS: tuple[type[Spoilt], ...] = (
    *(KeepsItsBuffers, WritesToOldPlaces, LoadsOnce, ForgetsInFiles, ChangesGradients),
    *(MovesWithoutGradient, Dies),
)
BUILDS = {mutant.__name__: partial(mutant, lr=0.05, momentum=0.9) for mutant in MUTANTS}
