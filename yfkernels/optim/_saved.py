"""A state_dict on its way into an optimizer: checked before anything changes, then in full bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yfkernels._warn import warn
from yfkernels.optim._group_options import WHOLE, make_average_plain
from yfkernels.optim._planner import params_of
from yfkernels.optim._state import AVERAGE

if TYPE_CHECKING:
    from yfkernels.optim._fused import FusedOptimizer


class SavedState:
    """What one call of load_state_dict brings.

    Args:
        optimizer: into which it goes.
        in_place: into the tensors that it has, as captured CUDA graphs know them.
    """

    def __init__(self, optimizer: FusedOptimizer, *, in_place: bool) -> None:
        self._optimizer = optimizer
        self._state_dict: dict[str, Any] = {}
        live = optimizer.state if in_place else {}
        self._live = {param: dict(state) for param, state in live.items()}
        groups = optimizer.param_groups if in_place else []
        self._live_lrs = [group.get("lr") for group in groups]
        self._units: dict[Tensor, float] = {}

    def completed(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state_dict with what it lacks, as this version has it.

        Raises:
            RuntimeError: it is not one of this optimizer's, or of one with other options.
            TypeError, ValueError: an option of a group has a bad value.
        """
        optimizer = self._optimizer
        groups = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if [len(group["params"]) for group in groups] != sizes:
            return state_dict  # torch says this best, and says it before anything changes
        begins = [group.get("average") is None for group in groups]
        groups = [self._completed_group(group) for group in groups]
        for index, group in enumerate(groups):
            optimizer._group_options.check_numbered(index, group)
        states = dict(state_dict["state"])
        for group, anew in zip(groups, begins):
            for key in group["params"] if anew else ():
                if AVERAGE in states.get(key, ()):
                    states[key] = optimizer._layout.without_average(states[key])
        self._state_dict = {**state_dict, "state": states, "param_groups": groups}
        layout = optimizer._layout
        saved = list(self._each())
        begun = {param for _, param, state in saved if layout.begun(state)}
        self._complete_statistics(groups, begun)
        for index, param, state in saved:
            if layout.begun(state):
                layout.check(index, param, state)
        if any(layout.converts(state) for _, _, state in saved):
            warn(
                "the state_dict was saved with another momentum_dtype: its momentum is rounded or "
                "widened, and the training will not match the unbroken one"
            )
        return self._state_dict

    def _completed_group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        optimizer, group = self._optimizer, dict(group)
        make_average_plain(group)
        lacks = sorted(optimizer._group_options.defining - group.keys())
        if lacks:
            raise RuntimeError(
                f"the state_dict was not saved by yfkernels.{type(optimizer).__name__}: its "
                f"parameter groups have no {', '.join(map(repr, lacks))}"
            )
        self._refuse_other_average(group.get("average"))
        self._refuse_other_tuning(group.get("tune", "global"))
        given = {name: optimizer.defaults[name] for name in optimizer._option_names}
        whole = {name: given[name] for name in WHOLE if name in given}
        return {**given, **group, **whole}

    def _refuse_other_average(self, saved: Mapping[str, Any] | None) -> None:
        """One that was not saved begins now; one that is not kept any more would be lost."""
        kept = self._optimizer.defaults["average"]
        if saved is None or saved == kept:
            return
        given = saved if isinstance(saved, Mapping) else {}
        settings = ", ".join(
            f"{name}={'torch.' + value if isinstance(value, str) else value}"
            for name, value in given.items()
        )
        raise ValueError(
            f"Invalid average value: {kept!r}; it must be that of the state_dict: construct the "
            f"optimizer with average=yfkernels.WeightAverage({settings}), or set 'average' to None "
            "in the parameter groups of the state_dict to begin a new one"
        )

    def _complete_statistics(self, groups: list[dict[str, Any]], begun: set[Tensor]) -> None:
        optimizer, tuner = self._optimizer, self._optimizer._tuner
        key, live = tuner.key, optimizer.param_groups
        first = 0
        for part, own in tuner.parts(groups):
            found = own[0].get(key) if own else None
            params = params_of(live[first : first + len(own)])
            if found is not None:
                own[0][key] = accepted = part.accepted(found, own[0])
                self._units |= dict.fromkeys(params, part.unit(accepted))
            elif tuner.needed and any(param in begun for param in params):
                raise RuntimeError(
                    f"the state_dict has state of parameters but no {key!r} in parameter group "
                    f"{first}: it was not saved by yfkernels.{type(optimizer).__name__}, or what "
                    "saved it has dropped that. Save optimizer.state_dict() itself, or load it "
                    "with an empty 'state' to begin anew"
                )
            first += len(own)

    def _refuse_other_tuning(self, saved: str) -> None:
        """A state for all groups is none of each of them, nor the other way round."""
        kept = self._optimizer.defaults.get("tune", saved)
        if saved != kept and len(self._optimizer.param_groups) > 1:
            raise RuntimeError(
                f"the state_dict was saved with tune={saved!r}, this optimizer has tune={kept!r}: "
                f"construct it with tune={saved!r}"
            )

    def _each(self) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
        """(index, parameter, saved state) for every parameter that has saved state."""
        ids = [i for group in self._state_dict["param_groups"] for i in group["params"]]
        for index, (saved_id, param) in enumerate(
            zip(ids, params_of(self._optimizer.param_groups))
        ):
            state = self._state_dict["state"].get(saved_id)
            if state:
                yield index, param, state

    def restore(self) -> None:
        """Undoes torch's cast of the state to the parameters' dtype, which would lose bits.

        What captured graphs know and the state_dict does not have begins anew where it is.
        """
        for _, param, state in self._each():
            live = self._live.get(param, {})
            unit = self._units.get(param, 1.0)
            self._optimizer._layout.restore(param, state, self._optimizer.state[param], live, unit)
        layout = self._optimizer._layout
        for param, live in self._live.items():
            if layout.begun(live):
                layout.begin_again(param, live, self._optimizer.state[param])
        for group, lr in zip(self._optimizer.param_groups, self._live_lrs):
            if isinstance(lr, Tensor):
                value = group["lr"]
                with torch.no_grad():
                    if isinstance(value, Tensor):
                        lr.copy_(value.reshape(lr.shape))
                    else:
                        lr.fill_(value)
                group["lr"] = lr
