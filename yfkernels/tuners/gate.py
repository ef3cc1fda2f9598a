"""The gate: whether a step counts, and how strongly its gradients do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops.backend import Backend
from yfkernels.ops.constants import GATE_STATE
from yfkernels.ops.rules import Measure, Rule
from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import Sharding
from yfkernels.tuners.group_rows import GroupRows, scalar_on
from yfkernels.tuners.measurement import Measurement
from yfkernels.tuners.tuner import SavedTuner, Tuner


class Gate(Tuner, SavedTuner):
    """Coefficients for rules whose coefficients are the user's settings.

    A step is refused if GradScaler says so or, where the gradient's norm is measured, if it is not
    finite; a measured norm above a group's bound scales that group's gradients down to it.

    Args:
        rule: the rule.
        skip_nonfinite: whether the norm is measured even if no group is clipped by it.
        always_sums: whether the rule needs sums over all parameters without it.

    Attributes:
        state: float64 vector, GATE_STATE.
    """

    key = "gate"
    needed = False
    runs_on_host = False
    by_group = False
    in_place = True

    def __init__(self, rule: Rule, *, skip_nonfinite: bool, always_sums: bool = False) -> None:
        self.rule = rule
        self.skip_nonfinite = skip_nonfinite
        self.always_sums = always_sums
        self.state = torch.empty(len(GATE_STATE), dtype=torch.float64, device="cpu")
        self.clear()
        self._measures = False  # whether the norm is to be measured in this step
        self._bound = rule.fields.index("max_norm")
        self._rows = GroupRows(len(rule.fields), rule.fields.index("lr"))
        self._unscaled = True  # the coefficients are the settings: no GradScaler has been met

    def global_options(self) -> dict[str, Any]:
        return {"skip_nonfinite": self.skip_nonfinite}

    def prepare(
        self,
        tables: Sequence[TensorTable],
        sharding: Sharding,
        num_groups: int,
        device: torch.device,
        backend: Backend,
    ) -> None:
        self._backend = backend
        self.state = self.state.to(device)
        self._rows.prepare(num_groups, device, backend)
        self._measurement = Measurement(tables, sharding, Measure.NORM)

    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        clips = any(row[self._bound] < math.inf for row in values)
        self._measures = clips or self.skip_nonfinite
        self._rows.set(values, device_lrs)

    def write_again(self) -> None:
        self._rows.write_again()
        self._unscaled = True  # rows that are written anew are the settings

    def start(self) -> Callable[[Sequence[Tensor]], None]:
        return lambda views: None  # of no interest here

    def buffers(self) -> list[Tensor]:
        return [self.state, self._rows.rows, *self._measurement.buffers()]

    def decide(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        backend, device = self._backend, self.state.device
        scale, verdict = scalar_on(device, grad_scale), scalar_on(device, found_inf)
        decision = (scale, verdict, self.state, self._rows.rows)
        if not self._measures:
            unscaled = scale is None and verdict is None
            if not (unscaled and self._unscaled):
                backend.decide(None, *decision)
            self._unscaled = unscaled
            return
        self._unscaled = False
        whole = self._measurement.whole(device)
        last = self._measurement.last if whole is not None else None
        if whole is not None and last is not None and last[0].backend is backend:
            self._measurement.run(all_but_last=True)
            table, own = last
            backend.measure_then_decide(table, own, whole[0], *decision)
        else:
            self._measurement.run()
            backend.decide(self._measurement.sums(device)[0], *decision)

    def collect(self) -> None:
        """Nothing: no rule with a gate has sums of the move."""

    def coefficients_on(self, device: torch.device, group: int = 0) -> Tensor:
        return self._rows.rows.to(device)

    def unit(self, saved: Tensor) -> float:
        return 1.0

    def clear(self) -> None:
        begin = torch.tensor([torch.nan, 0.0], dtype=torch.float64, device="cpu")
        self.state.copy_(begin)

    def accepted(self, saved: Tensor, group: dict[str, Any]) -> Tensor:
        if not isinstance(saved, Tensor):
            raise RuntimeError(f"the gate is a {type(saved).__name__}, and must be a tensor")
        if saved.shape != (len(GATE_STATE),):
            raise RuntimeError(
                f"the state_dict's gate has shape {tuple(saved.shape)}, this version of "
                f"yfkernels reads ({len(GATE_STATE)},)"
            )
        return saved

    def parts(self, groups: list[dict[str, Any]]) -> list[tuple[SavedTuner, list[dict[str, Any]]]]:
        return [(self, groups)]

    def diagnostics(self, groups: list[dict[str, Any]], group: int = 0) -> dict[str, float]:
        grad_norm, skipped = self.state.tolist()
        return {"grad_norm": grad_norm, "skipped_steps": skipped}

    def lrs(self, groups: list[dict[str, Any]]) -> list[float]:
        """The lr of the last step in each group, which a scheduler may have changed since.

        Those of groups that took none are what their options say. On CUDA this waits.
        """
        used: list[float] = self._rows.rows[: len(groups), self.rule.fields.index("lr")].tolist()
        return used + [float(group["lr"]) for group in groups[len(used) :]]

    def publish(self, groups: list[dict[str, Any]]) -> None:
        """Nothing but the state is there to be read."""

    def is_published(self, groups: list[dict[str, Any]]) -> bool:
        return True

    def withdraw(self, groups: list[dict[str, Any]]) -> None:
        """Nothing."""

    def keep_groups(self, num_groups: int) -> None:
        """Nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and pickles keep what is counted; the tables' buffers are made again
        return _restore, (self.rule, self.skip_nonfinite, self.always_sums, self.state)


def _restore(rule: Rule, skip_nonfinite: bool, always_sums: bool, state: Tensor) -> Gate:
    gate = Gate(rule, skip_nonfinite=skip_nonfinite, always_sums=always_sums)
    gate.state = state
    return gate
