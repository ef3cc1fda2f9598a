"""What is kept for each parameter: its names and columns, how it begins, how it is restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops import float8
from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.memory import new_state, same_layout
from yfkernels.ops.rules import Rule
from yfkernels.ops.table import Column
from yfkernels.ops.watch import addressable
from yfkernels.sharding import shards

_DTYPE = {torch.float64: torch.float64}  # every other dtype keeps float32 state
_HALF = (torch.bfloat16, torch.float16)
AVERAGE = "param_avg"
_AS_PARAM = ("master", AVERAGE)  # what begins as the parameter is
_CODES = "_codes"  # ends the name of a state that is kept in eight bits
VELOCITY, FLOAT8 = "momentum_buffer", "momentum_codes"  # the same in float8, in units of its tuner
_TWINS = {VELOCITY: FLOAT8, FLOAT8: VELOCITY}


def view_of(tensor: Tensor) -> Tensor:
    """What the backends see of a tensor: this process's part, a complex one as pairs of reals.

    Of a lazy view, which holds the conjugate or the negative, it is a copy.
    """
    tensor = shards.local(tensor.detach()).resolve_conj().resolve_neg()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


@dataclass(frozen=True)
class StateLayout:
    """The state that a parameter has under an optimizer's options.

    Attributes:
        names: of the rule's states, with their columns.
        counts_steps: whether the update depends on how many steps a parameter has taken.
        average: how an average of each parameter is kept, if one is.
        stochastic_rounding: half-precision parameters count their steps and have no master.
        coded: names of the states that are kept in eight bits, as uint8: not as float8, which
            torch.equal and gloo's collectives do not take.
    """

    names: Mapping[str, Column]
    counts_steps: bool
    stochastic_rounding: bool
    average: WeightAverage | None
    coded: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, rule: Rule, stochastic_rounding: bool, average: WeightAverage | None
    ) -> StateLayout:
        """What a rule keeps, and the average beside it."""
        names = rule.state_names
        columns = {name: Column.state(k) for k, name in enumerate(names)}
        coded = {name for name in names if name.endswith(_CODES)}
        return cls(columns, rule.counts, stochastic_rounding, average, frozenset(coded))

    def columns(self, view: Tensor) -> dict[str, Column]:
        """The parameter's state by name, with its column in the table."""
        columns = dict(self.names)
        half = view.dtype in _HALF
        if half and not self.stochastic_rounding:
            columns["master"] = Column.MASTER
        if self.average is not None:
            columns[AVERAGE] = Column.AVERAGE
        if self.counts_steps or self.average or (half and self.stochastic_rounding):
            columns["step"] = Column.STEP
        return columns

    def begun(self, state: Mapping[str, Any] | None) -> bool:
        """Whether a parameter's state has anything that this optimizer puts there."""
        ours = (*self.names, *_AS_PARAM, "step")
        return state is not None and any(name in state for name in ours)

    def forget(self, state: dict[str, Any]) -> None:
        """Removes what this optimizer puts into a parameter's state."""
        for name in (*self.names, *_AS_PARAM, "step"):
            state.pop(name, None)

    def begin_again(self, param: Tensor, live: Mapping[str, Any], state: dict[str, Any]) -> None:
        """Puts into `state` what of `live` it does not have, as it begins, in the same memory."""
        view = view_of(param)
        for name in self.columns(view):
            there = live.get(name)
            if isinstance(there, Tensor) and state.get(name) is None:
                part = shards.local(there)
                if name in _AS_PARAM:
                    part.copy_(view)
                else:
                    part.zero_()
                state[name] = there

    def without_average(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A parameter's saved state for an average that begins anew.

        Its count of steps goes too, where nothing else may have counted.
        """
        gone = (AVERAGE,) if self.counts_steps or self.stochastic_rounding else (AVERAGE, "step")
        return {name: value for name, value in state.items() if name not in gone}

    def with_float_codes(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A parameter's state with its bytes as whole numbers in float32, which load as well."""
        return {k: v.float() if k in self.coded else v for k, v in state.items()}

    @property
    def in_float8(self) -> bool:
        """Whether velocities are in float8, in units of their tuner."""
        return FLOAT8 in self.names

    @staticmethod
    def recount(state: Mapping[str, Any], before: float, unit: float) -> None:
        """Has a velocity in another unit; one without a unit stands for nothing and stays."""
        bits = state.get(FLOAT8)
        if isinstance(bits, Tensor) and before and unit:
            part = shards.local(bits)
            part.copy_(float8.nearest(float8.numbers(part.to(torch.uint8)) * (before / unit)))

    def converts(self, saved: Mapping[str, Any]) -> bool:
        """Whether a parameter's saved velocity is in float8 and ours is not, or the other way."""
        return any(self._source(name, saved) != name for name in self.names)

    def _source(self, name: str, saved: Mapping[str, Any]) -> str:
        """Under which name a saved state has one of ours: those of two forms are beside codes."""
        twin = _TWINS.get(name, name) if self.coded else name
        return twin if saved.get(name) is None and saved.get(twin) is not None else name

    def bring(self, param: Tensor, view: Tensor, state: dict[str, Any]) -> dict[Column, Tensor]:
        """The state by column, made or brought into the parameter's layout and onto its device.

        What is brought is put into `state`, after all of it has been looked at. A missing momentum
        begins at zero. Without one of the rule's further states all of them and the count of steps
        begin anew: moments of many steps divided by one that has just begun would be a huge move.
        """
        if self.begun(state) and any(state.get(name) is None for name in list(self.names)[1:]):
            for name in (*self.names, "step"):
                state.pop(name, None)
        columns: dict[Column, Tensor] = {}
        changed: dict[str, Tensor] = {}
        for name, column in self.columns(view).items():
            value = state.get(name)
            part = self._part(name, value, param)
            if part is not None and name != "step" and part.shape != view.shape:
                raise RuntimeError(
                    f"a parameter of shape {tuple(view.shape)} has a {name!r} of shape "
                    f"{tuple(part.shape)}: it was resized after its first step; delete its entry "
                    "in optimizer.state to begin anew, or construct the optimizer again"
                )
            if part is None and name == AVERAGE and Column.MASTER in columns:
                part = _newest(view, columns[Column.MASTER])
            if part is None or not self._lies_as(part, name, view):
                part = self._tensor(name, view, part)
            if part is not shards.local(value):
                changed[name] = part if name == "step" else shards.like(param, part)
            columns[column] = part
        state.update(changed)
        return columns

    @staticmethod
    def _part(name: str, value: Any, param: Tensor) -> Tensor | None:
        """What this process has of a state; a step, which may be a plain number, it has whole."""
        if name == "step" and value is not None:
            return value if isinstance(value, Tensor) else torch.tensor(float(value), device="cpu")
        return None if value is None else shards.part_of(value, param)

    def _dtype(self, name: str, view: Tensor) -> torch.dtype:
        if name == "step":
            return torch.float32
        if name in self.coded:
            return torch.uint8
        dtype = _DTYPE.get(view.dtype, torch.float32)
        return self.average.of(dtype) if self.average and name == AVERAGE else dtype

    def _lies_as(self, part: Tensor, name: str, view: Tensor) -> bool:
        """Whether a state can be used as it is, in place."""
        if part.device != view.device or part.dtype != self._dtype(name, view):
            return False
        if addressable(part) != addressable(view):
            return False
        return part.dim() == 0 if name == "step" else same_layout(part, view)

    def _tensor(self, name: str, view: Tensor, value: Tensor | None) -> Tensor:
        """A state tensor in the parameter's layout, with `value` in it or as it begins."""
        dtype = self._dtype(name, view)
        if name == "step":
            tensor = torch.zeros((), dtype=dtype, device=view.device)
            return tensor if value is None else tensor.copy_(value.reshape(()))
        tensor = new_state(view, dtype)
        if value is None and name in _AS_PARAM:
            value = view
        return tensor if value is None else tensor.copy_(value)

    def check(self, index: int, param: Tensor, saved: Mapping[str, Any]) -> None:
        """Raises RuntimeError if `saved` is not the state of such a parameter."""
        view = view_of(param)
        whole = param.shape if shards.is_dtensor(param) else view.shape
        for name in self.columns(view):
            value, shape = saved.get(self._source(name, saved)), () if name == "step" else whole
            if value is None and (name in _AS_PARAM or (name == "step" and not self.counts_steps)):
                continue  # these begin as the parameter, stochastic rounding with this run
            if isinstance(value, Real) and name == "step":
                continue  # as torch.optim kept it once
            if not isinstance(value, Tensor):
                raise RuntimeError(
                    f"the state_dict has no {name!r} for parameter {index}; it has "
                    f"{sorted(str(k) for k, v in saved.items() if v is not None)}"
                    f"{self._hint(name, saved)}"
                )
            if value.shape != shape and not (name == "step" and value.numel() == 1):
                raise RuntimeError(
                    f"{name!r} of parameter {index} has shape {tuple(value.shape)} in the "
                    f"state_dict, the parameter has {tuple(shape)}"
                )

    def _hint(self, missing: str, saved: Mapping[str, Any]) -> str:
        """The option by which two optimizers of one class differ in having such a state."""
        alike = {str(name).removesuffix(_CODES) for name in saved}
        if missing.removesuffix(_CODES) not in alike:
            return ""
        return ". Was it saved with the same preconditioner, momentum_dtype and state_bits?"

    def restore(
        self,
        param: Tensor,
        saved: Mapping[str, Any],
        state: dict[str, Any],
        live: Mapping[str, Any],
        unit: float,
    ) -> None:
        """Puts what is ours of `saved` into `state` in full precision; the rest stays as it is.

        A parameter that needs no master any more takes the value of the saved one. What `live` has
        in the right form takes the numbers, and is the state again. unit: of velocities in float8.
        """
        view = view_of(param)
        ours = self.columns(view)
        for name in ours:
            source = self._source(name, saved)
            if saved.get(source) is None:
                continue
            part = self._part(name, saved[source], param)
            if source != name:
                state.pop(source, None)
                part = _converted(part, name, unit)
            made = self._tensor(name, view, part)
            there = live.get(name)
            if isinstance(there, Tensor) and self._lies_as(shards.local(there), name, view):
                shards.local(there).copy_(made)
                state[name] = there
            else:
                state[name] = made if name == "step" else shards.like(param, made)
        if "master" in saved and "master" not in ours:
            state.pop("master", None)
            if view.dtype not in _HALF:
                _take_master(view, shards.part_of(saved["master"], param))


def _converted(part: Tensor | None, name: str, unit: float) -> Tensor | None:
    """A velocity as the state `name` has it: in float8, or out of that."""
    if part is None:
        return None
    if name != FLOAT8:
        return float8.numbers(part.to(torch.uint8)) * unit
    # without a unit, before a step or after a reset of the statistics, none is remembered
    return float8.nearest(part / unit if unit else torch.zeros_like(part))


def _newest(view: Tensor, master: Tensor) -> Tensor:
    """The parameter in full precision: its master, unless somebody has written to it since."""
    return torch.where(master.to(view.dtype) == view, master, view.to(master.dtype))


def _take_master(view: Tensor, master: Tensor) -> None:
    """Gives a parameter back the bits that its half-precision copy had lost.

    Where it is not the master rounded, somebody has written to it since, and it stays.
    """
    if addressable(view):
        master = master.to(view.device, view.dtype)
        rounded = [master.to(half).to(view.dtype) == view for half in _HALF]
        view.copy_(torch.where(rounded[0] | rounded[1], master, view))
