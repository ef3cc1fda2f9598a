"""An optimizer and its oracle, fed the same gradients: what all comparisons share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from support.cases import (
    CANARY,
    Gradients,
    Group,
    Site,
    assert_same_bits,
    make_parameter,
    memory_order,
    same_bits,
)

HALF = (torch.float16, torch.bfloat16)
DOUBLE = (torch.float64, torch.complex128)


class SideBySide(ABC):
    """One optimizer and one oracle, compared after every step.

    A subclass makes `optimizer` and `oracle` and says how near they have to be in `compare`.
    """

    optimizer: Any
    oracle: Any

    def __init__(self, site: Site) -> None:
        self.site = site
        self.params: list[torch.nn.Parameter] = []
        self.storages: list[torch.Tensor] = []

    @property
    def double(self) -> bool:
        """Whether nothing is computed in single precision."""
        return all(p.dtype in DOUBLE for p in self.params)

    @abstractmethod
    def enter(self, params: list[np.ndarray], settings: dict[str, Any]) -> None:
        """Gives the oracle a parameter group."""

    @abstractmethod
    def compare(self, trace: Any) -> None:
        """Asserts that the optimizer is where the oracle is after a step."""

    def adopt(
        self, group: Group, rng: np.random.Generator, inherited: dict[str, Any]
    ) -> dict[str, Any]:
        """Make the group's parameters, enter them in the oracle, return torch's dict."""
        made = [make_parameter(spec, rng, self.site.device) for spec in group.specs]
        params = [parameter for parameter, _ in made]
        self.params += params
        self.storages += [storage for _, storage in made]
        settings = {k: plain(v) for k, v in {**inherited, **group.overrides}.items()}
        self.enter([memory_order(p, p) for p in params], settings)
        return {"params": params, **group.overrides}

    def run(self, gradients: Gradients, rng: np.random.Generator) -> None:
        for step in gradients.draw(rng, self.params):
            self.step(step)
        self.assert_canaries_alive()

    def set_gradients(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Fresh gradient tensors, of the parameter's dtype and of torch's usual layout."""
        for p, g in zip(self.params, gradients, strict=True):
            p.grad = None if g is None else torch.empty_like(p).copy_(g)

    def step(
        self,
        gradients: Sequence[torch.Tensor | None] | None = None,
        *,
        call: Callable[[], Any] | None = None,
        grad_scale: float = 1.0,
        found_inf: bool = False,
    ) -> None:
        """Step both, with the gradients that the parameters hold if none are given, and compare."""
        if gradients is not None:
            self.set_gradients(gradients)
        grads = [p.grad for p in self.params]
        grads_before = copy.deepcopy([None if g is None else g.detach() for g in grads])
        skipped = self.oracle.skipped_steps
        trace = self.oracle.step(
            [
                None if g is None else memory_order(g, p)
                for g, p in zip(grads, self.params, strict=True)
            ],
            grad_scale=grad_scale,
            found_inf=found_inf,
            product_dtype=np.float64 if self.double else np.float32,
        )
        skips = self.oracle.skipped_steps > skipped
        frozen = self.untouchable() if skips else None

        (call or self.optimizer.step)()

        for p, g, before in zip(self.params, grads, grads_before, strict=True):
            assert p.grad is g, "the gradient was replaced"
            assert g is None or same_bits(g, before), "the gradient was modified"
        if skips:
            assert_same_bits(frozen, self.untouchable(), "a skipped step")
            assert self.optimizer.diagnostics()["skipped_steps"] == self.oracle.skipped_steps
        if trace is not None:
            self.compare(trace)

    def untouchable(self) -> Any:
        """Copies of all that a skipped step must leave alone.

        State that is still zero counts as absent: a first step may create it before it is skipped.
        """
        diagnostics = self.optimizer.diagnostics() if self.oracle.last is not None else {}
        diagnostics.pop("skipped_steps", None)
        buffers = {
            (i, name): value
            for i, state in self.optimizer.state_dict()["state"].items()
            for name, value in state.items()
            if name != "master" and isinstance(value, torch.Tensor) and value.any()
        }
        return copy.deepcopy(([p.detach() for p in self.params], buffers, diagnostics))

    def full_precision(self, p: torch.nn.Parameter) -> torch.Tensor:
        """The value that the optimizer works on: the parameter, or its float32 master."""
        if p.dtype not in HALF or not self.optimizer.state.get(p):
            return p.detach()
        master = self.optimizer.state[p]["master"]
        assert same_bits(p, master.to(p.dtype)), "the parameter is not its master, rounded"
        return master

    def elementwise(self) -> list[list[np.ndarray]]:
        """All that the oracle keeps for each element of the first group, an array a parameter."""
        kept = vars(self.oracle.groups[0]).values()
        return [a for a in kept if isinstance(a, list) and isinstance(a[0], np.ndarray)]

    def assert_near(self, allowed: Sequence[np.ndarray], step: int) -> None:
        """Every element within `allowed`, an array a parameter in memory order."""
        expected = [p for group in self.oracle.groups for p in group.params]
        for i, p in enumerate(self.params):
            gap = np.abs(memory_order(self.full_precision(p), p) - expected[i])
            worst = int(np.argmax(gap - allowed[i])) if gap.size else 0
            assert (gap <= allowed[i]).all(), (
                f"parameter {i}, element {worst} at step {step}: off by {gap[worst]:.3e}, "
                f"allowed {allowed[i][worst]:.3e}"
            )

    def assert_canaries_alive(self) -> None:
        """Nothing outside the parameters was written."""
        for p, storage in zip(self.params, self.storages, strict=True):
            if storage.numel() == p.numel():
                continue
            outside = storage.clone()
            torch.as_strided(outside, p.shape, p.stride(), p.storage_offset()).fill_(CANARY)
            assert (outside == CANARY).all(), "memory beside a parameter was overwritten"


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value
