"""The gate: whether a step counts, and how strongly its gradients do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yfkernels.ops.backend import Backend
from yfkernels.ops.constants import GATE_STATE
from yfkernels.ops.rules import Measure, Rule
from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import Sharding
from yfkernels.tuners.measurement import Measurement
from yfkernels.tuners.settings import Settings, scalar_on


class Gate:
    """Coefficients for rules whose coefficients are the user's settings.

    A step is refused if GradScaler says so or, where the gradient's norm is measured, if it is not
    finite; a measured norm above a group's bound scales that group's gradients down to it.

    Args:
        rule: the rule.

    Attributes:
        state: float64 vector, GATE_STATE. Always the same tensor, but when `prepare` has to move it
            to another device.
        measures: whether the norm is to be measured in this step.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.state = torch.empty(len(GATE_STATE), dtype=torch.float64, device="cpu")
        self.clear()
        self.measures = False
        self._settings = Settings(len(rule.fields), rule.fields.index("lr"))
        self._unscaled = True  # the coefficients are the settings: no GradScaler has been met

    def prepare(
        self,
        tables: Sequence[TensorTable],
        sharding: Sharding,
        num_groups: int,
        device: torch.device,
        backend: Backend,
    ) -> None:
        """Makes room for a set of tables; arguments as in `YellowFinTuner.prepare`."""
        self._backend = backend
        self.state = self.state.to(device)
        self._settings.prepare(num_groups, device, backend)
        self._measurement = Measurement(tables, sharding, Measure.NORM)

    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        """Takes the user's settings, a row of the rule's fields a group; see `Settings.set`."""
        self._settings.set(values, device_lrs)

    def write_again(self) -> None:
        """Has the next step write the settings, and decide, whatever the device has of them."""
        self._settings.write_again()
        self._unscaled = True  # rows that are written anew are the settings

    def buffers(self) -> list[Tensor]:
        """What was made here and kernels read or write."""
        return [self.state, self._settings.rows, *self._measurement.buffers()]

    def decide(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Decides on this step.

        Args:
            grad_scale: GradScaler's loss scale if the gradients still carry it.
            found_inf: GradScaler's verdict, non-zero to skip the step.
        """
        backend, device = self._backend, self.state.device
        scale, verdict = scalar_on(device, grad_scale), scalar_on(device, found_inf)
        decision = (scale, verdict, self.state, self._settings.rows)
        if not self.measures:
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

    def coefficients_on(self, device: torch.device) -> Tensor:
        """The coefficients of this step on a device."""
        return self._settings.rows.to(device)

    def clear(self) -> None:
        """Puts the state back to how it begins, in place."""
        begin = torch.tensor([torch.nan, 0.0], dtype=torch.float64, device="cpu")
        self.state.copy_(begin)

    def load(self, state: Tensor) -> None:
        """Takes a state saved before, in place; its shape must have been checked."""
        self.state.copy_(state)

    def values(self) -> dict[str, float]:
        """GATE_STATE by name; on CUDA this waits for the device."""
        return dict(zip(GATE_STATE, self.state.tolist()))

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and pickles keep what is counted; the tables' buffers are made again
        return _restore, (self.rule, self.state)


def _restore(rule: Rule, state: Tensor) -> Gate:
    gate = Gate(rule)
    gate.state = state
    return gate
