"""What is kept for each parameter: its names and columns, how it begins, how it is restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yfkernels.distributed import sharding
from yfkernels.ops.memory import new_state, same_layout
from yfkernels.ops.table import Column

_DTYPE = {torch.float64: torch.float64}  # every other dtype keeps float32 state
_HALF = (torch.bfloat16, torch.float16)
_CODES = "_codes"  # ends the name of a state that is kept in 8-bit codes


def view_of(tensor: Tensor) -> Tensor:
    """What the kernels see of a tensor: this process's part, a complex one as pairs of reals."""
    tensor = sharding.local(tensor.detach()).resolve_conj().resolve_neg()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


@dataclass(frozen=True)
class StateLayout:
    """The state that a parameter has under an optimizer's options.

    Attributes:
        names: of the rule's states, with their columns.
        counts_steps: whether the update hangs on how many steps a parameter has taken.
        stochastic_rounding: half-precision parameters count their steps and have no master.
        coded: names of the states that are kept in 8-bit codes.
    """

    names: Mapping[str, Column]
    counts_steps: bool
    stochastic_rounding: bool
    coded: frozenset[str] = frozenset()

    def columns(self, view: Tensor) -> dict[str, Column]:
        """The parameter's state by name, with its column in the table."""
        columns = dict(self.names)
        half = view.dtype in _HALF
        if half and not self.stochastic_rounding:
            columns["master"] = Column.MASTER
        if self.counts_steps or (half and self.stochastic_rounding):
            columns["step"] = Column.STEP
        return columns

    def bring(self, param: Tensor, view: Tensor, state: dict[str, Any]) -> dict[Column, Tensor]:
        """The state by column, made or brought into the parameter's layout and onto its device."""
        columns = {}
        for name, column in self.columns(view).items():
            value = state.get(name)
            part = None if value is None else sharding.local(value)
            if part is not None and name != "step" and part.shape != view.shape:
                raise RuntimeError(
                    f"a parameter of shape {tuple(view.shape)} has a {name!r} of shape "
                    f"{tuple(part.shape)}: it was resized after its first step; delete its entry "
                    "in optimizer.state to begin anew, or construct the optimizer again"
                )
            # (a step, of no dimension, lies as anything does)
            if part is None or part.device != view.device or not same_layout(part, view):
                part = self._tensor(name, view, part)
                state[name] = part if name == "step" else sharding.like(param, part)
            columns[column] = part
        return columns

    def _tensor(self, name: str, view: Tensor, value: Tensor | None) -> Tensor:
        """A state tensor in the parameter's layout, with `value` in it or as it begins."""
        if name == "step":
            tensor = torch.zeros((), dtype=torch.float32, device=view.device)
        else:
            dtype = torch.uint8 if name in self.coded else _DTYPE.get(view.dtype, torch.float32)
            tensor = new_state(view, dtype)
        if value is None and name == "master":
            value = view
        return tensor if value is None else tensor.copy_(value)

    def check(self, index: int, param: Tensor, saved: Mapping[str, Any]) -> None:
        """Raises RuntimeError if `saved` is not the state of such a parameter."""
        view = view_of(param)
        whole = param.shape if sharding.is_dtensor(param) else view.shape
        for name in self.columns(view):
            value, shape = saved.get(name), () if name == "step" else whole
            if value is None and name == "step" and not self.counts_steps:
                continue  # stochastic rounding begins with this run
            if not isinstance(value, Tensor):
                option = self._option_behind(name, saved)
                raise RuntimeError(
                    f"the state_dict has no {name!r} for parameter {index}; it has "
                    f"{sorted(saved)}. Was it saved with the same options"
                    f"{f', {option} among them' if option else ''}?"
                )
            if value.shape != shape:
                raise RuntimeError(
                    f"{name!r} of parameter {index} has shape {tuple(value.shape)} in the "
                    f"state_dict, the parameter has {tuple(shape)}"
                )

    def _option_behind(self, missing: str, saved: Mapping[str, Any]) -> str | None:
        """The option by which two optimizers of one class differ in having such a state."""
        if missing == "master":
            return "stochastic_rounding"
        alike = {name.removesuffix(_CODES) for name in saved}
        return "preconditioner" if missing.removesuffix(_CODES) in alike else None

    def restore(self, param: Tensor, saved: Mapping[str, Any], state: dict[str, Any]) -> None:
        """Puts `saved` into `state` in full precision, and nothing else."""
        view = view_of(param)
        state.clear()
        for name in (name for name in self.columns(view) if name in saved):
            if name == "step":
                state[name] = self._tensor(name, view, saved[name])
            else:
                part = sharding.part_of(saved[name], param)
                state[name] = sharding.like(param, self._tensor(name, view, part))
