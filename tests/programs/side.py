"""One side of a comparison: an optimizer with its own copy of the parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from support.cases import CANARY
from torch import Tensor
from torch.nn import Parameter

from yfkernels import YellowFin
from yfkernels.ops.constants import STATE_FIELDS
from yfkernels.optim._state import view_of

HALF = (torch.bfloat16, torch.float16)
FIRST_STATES = ("momentum_buffer", "exp_avg", "momentum_codes")  # one of them is there
Groups = list[dict[str, Any]]
Snapshot = tuple[list[Tensor], dict[str, Any]]


class Mismatch(AssertionError):
    """What a program showed; `kind` tells one fault from another while it is being shortened."""

    def __init__(self, kind: str, details: str) -> None:
        super().__init__(f"{kind}: {details}")
        self.kind = kind
        self.details = details


def claim(holds: bool, kind: str, details: str = "") -> None:
    if not holds:
        raise Mismatch(kind, details)


class Side:
    """An optimizer, its parameters and what surrounds them.

    Attributes:
        role: "subject" goes through everything; "plain", an optimizer of the same class, leaves
            out what must make no difference; "reference" is another that must end there too.
        guards: tensors that must keep the value CANARY, all of them or where the mask says: what
            lies around parameters.
        canaries: such tensors that come and go: what parameters and state have left, and what is
            somebody else's.
        checkpoint: parameters and state of an earlier step, to go back to.
    """

    def __init__(
        self,
        role: str,
        build: Callable[[Groups], Any],
        groups: list[list[Parameter]],
        guards: list[tuple[Tensor, Tensor | None]],
    ) -> None:
        self.role = role
        self.build = build
        self.optimizer: Any = build([{"params": params} for params in groups])
        self.guards = guards
        self.canaries: list[Tensor] = []
        self.checkpoint: Snapshot | None = None
        self.ours = type(self.optimizer).__module__.startswith("yfkernels.")

    @property
    def subject(self) -> bool:
        return self.role == "subject"

    @property
    def params(self) -> list[Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def loads_as_it_is(self) -> bool:
        """Whether loading what was just saved changes nothing and is not refused.

        Not if a parameter was in half precision before: loading gives it its master's bits. Nor if
        it was in double precision: loading rounds the state to what the next step needs. Nor if a
        part of a state is missing: it might be another optimizer's.
        """
        return not self._rounds and not any(
            "master" in left or missing & set(self.optimizer._layout.names)
            for left, missing in self._misfits()
        )

    @property
    def _rounds(self) -> bool:
        """Whether a state has more bits than the next step needs."""
        return any(
            isinstance(value, Tensor) and value.dtype == torch.float64 != working(p)
            for p in self.params
            for value in self.optimizer.state.get(p, {}).values()
        )

    @property
    def waits(self) -> bool:
        """Whether every step so far was skipped, of one tuner at least.

        YellowFin looks where the parameters begin when it is set up, not when it starts: until
        then it makes a difference to set it up again after somebody has written to a parameter.
        """
        tuners = [group["tuner"] for group in self.optimizer.param_groups if "tuner" in group]
        return any(bool(tuner[STATE_FIELDS.index("step")] == 0.0) for tuner in tuners)

    @property
    def tunes_from_here(self) -> bool:
        """Whether this is YellowFin, and has not taken a step; or not with every group."""
        if not isinstance(self.optimizer, YellowFin):
            return False
        groups = range(len(self.optimizer.param_groups))
        return any(self.optimizer.diagnostics(group)["step"] == 0.0 for group in groups)

    @property
    def fits(self) -> bool:
        """Whether the state has what the next step needs, and no more."""
        return not any(left or missing for left, missing in self._misfits())

    def _misfits(self) -> Iterator[tuple[set[str], set[str]]]:
        """What a parameter's state has and does not need, and what it lacks."""
        if not self.ours:
            return
        layout = self.optimizer._layout
        every = {*layout.names, "master", "step"}
        for p in self.params:
            has = every & self.optimizer.state.get(p, {}).keys()
            needs = set(layout.columns(view_of(p)))
            if has:
                yield has - needs, needs - has

    @property
    def cleared(self) -> bool:
        """Whether nothing is left of the state, but of the statistics; or so of a group's."""
        return any(
            any(name in group for name in ("tuner", "gate"))
            and not any(map(self.begun, self.tuned_with(group["params"])))
            for group in self.optimizer.param_groups
        )

    def tuned_with(self, params: list[Parameter]) -> list[Parameter]:
        """Those and all that share their statistics."""
        by_group = self.optimizer.defaults.get("tune") == "group"
        return params if by_group else self.params

    def begun(self, p: Parameter) -> bool:
        """Whether the optimizer, one of ours, has a state for a parameter."""
        return bool(self.optimizer._layout.begun(self.optimizer.state.get(p)))

    def fresh(self, *, new_parameters: bool = False) -> Any:
        """An optimizer as the program's start makes it, for a checkpoint to be loaded into."""
        groups: Groups = [
            {"params": [like(p) if new_parameters else p for p in group["params"]]}
            for group in self.optimizer.param_groups
        ]
        return self.build(groups)

    def snapshot(self) -> Snapshot:
        """Copies of the parameters and of all state."""
        values = [clone(p.detach()) for p in self.params]
        return values, copy.deepcopy(self.optimizer.state_dict())

    def leave(self, tensor: Tensor, rng: np.random.Generator) -> None:
        """Memory of the optimizer that has served: freed, or kept by somebody else."""
        if rng.integers(2) and 0 not in tensor.stride():
            tensor.detach().fill_(CANARY)
            self.canaries.append(tensor.detach())

    def step(self, *arguments: Any, run: Callable[..., Any] | None = None) -> Any:
        """A step of the optimizer; of the subject everything that must not change is looked at."""
        run = run or self.optimizer.step
        if not self.subject:
            return run(*arguments)
        params = self.params
        grads = [p.grad for p in params]
        grads_before = [None if g is None else g.detach().clone() for g in grads]
        still = [p.detach().clone() if p.grad is None else None for p in params]
        result = run(*arguments)
        for i, (p, g, before, value) in enumerate(zip(params, grads, grads_before, still)):
            if not arguments:  # a closure makes its own gradients
                claim(p.grad is g, "gradient replaced", f"parameter {i}")
            if g is not None and before is not None and not arguments:
                claim(same_bits(g, before), "gradient changed", f"parameter {i}")
            if value is not None and not arguments:
                claim(same_bits(p, value), "moved without a gradient", f"parameter {i}")
        return result

    def check_surroundings(self) -> None:
        """Nothing outside the parameters and the state was written."""
        for tensor, mask in self.guards:
            outside = tensor if mask is None else tensor[mask]
            claim(bool((outside == CANARY).all()), "memory beside a parameter was written")
        del self.canaries[:-60]
        for tensor in self.canaries:
            claim(bool((tensor == CANARY).all()), "somebody else's memory was written")


def working(p: Tensor) -> torch.dtype:
    """What the state of a parameter will be in, from the next step on."""
    return torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality that tells NaNs and signed zeros apart."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))


def _bits(tensor: Tensor) -> Tensor:
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    return flat.copy_(tensor.detach().reshape(-1)).view(torch.uint8)


def clone(tensor: Tensor) -> Tensor:
    """A copy of the same layout, holes included."""
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return made.copy_(tensor)


def like(p: Parameter) -> Parameter:
    """Another parameter of the same values and layout."""
    return Parameter(clone(p.detach()), requires_grad=p.requires_grad)
