"""The YellowFin tuner: what it remembers, and one tuning step over the tables of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yfkernels import ops
from yfkernels.distributed.sharding import ShardGroup
from yfkernels.ops.rules import YELLOWFIN, Measure
from yfkernels.ops.table import TensorTable
from yfkernels.ops.tuner import (
    GAUGES,
    GROUP_FIELDS,
    STATE_FIELDS,
    STATE_FORMAT,
    TILE,
    TunerOptions,
)
from yfkernels.tuning.measurement import Measurement
from yfkernels.tuning.settings import Settings


class YellowFinTuner:
    """Keeps the tuner's state and turns measurements into coefficients for the apply pass.

    Args:
        options: YellowFin's global options.

    Attributes:
        state: float64 vector: STATE_FIELDS, the window and, with the sketch, its average.
        coefficients: float64 [groups, len(YELLOWFIN.fields)], on the device of the state.
    """

    def __init__(self, options: TunerOptions) -> None:
        self.options = options
        self.state = torch.zeros(options.state_words, dtype=torch.float64)
        self.state[STATE_FIELDS.index("format")] = STATE_FORMAT
        self.state[STATE_FIELDS.index("beta_power")] = 1.0
        self._measurement: Measurement | None = None  # while there are tables
        self._backend = "torch"
        self._settings = Settings(len(GROUP_FIELDS))
        self.coefficients = torch.zeros(0, len(YELLOWFIN.fields), dtype=torch.float64)

    def prepare(
        self,
        tables: Sequence[TensorTable],
        shards: Sequence[ShardGroup],
        num_groups: int,
        device: torch.device,
        backend: str,
    ) -> None:
        """Makes room for a set of tables and moves the state to where it will be tuned.

        Args:
            tables: every table of the optimizer on this process.
            shards: every shard group of the optimizer, in the same order on all processes.
            num_groups: parameter groups.
            device: where SingleStep is to run.
            backend: which backend runs it there.
        """
        self._backend = backend
        self.state = self.state.to(device)
        self._settings.prepare(num_groups, device, backend)
        coefficients = torch.zeros(
            num_groups, len(YELLOWFIN.fields), dtype=torch.float64, device=device
        )
        known = self.coefficients[:num_groups]  # of the last step, which lrs() tells
        coefficients[: len(known)] = known
        self.coefficients = coefficients
        # the native kernel's: a sum for each bucket of the sketch, and a ticket
        self._scratch = torch.zeros(TILE + 1, dtype=torch.float64, device=device)
        what = Measure.SKETCH if self.options.sketch else Measure.AVERAGE
        what = Measure.NORM if self.options.robust else what
        wanted = (what, self.options.sparsity_debias, self.options.gauges > 0)
        before, self._measurement = self._measurement, Measurement(tables, shards, *wanted)
        if before is not None and self.options.gauges:
            self._measurement.inherit_gauges(before)

    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        """Takes the user's settings; see `Settings.set`."""
        self._settings.set(values, device_lrs)

    def decide(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Measures this step's gradients and turns what was measured into coefficients.

        Args:
            grad_scale: GradScaler's loss scale if the gradients still carry it.
            found_inf: GradScaler's verdict, non-zero to skip the step.
        """
        assert self._measurement is not None, "prepare() comes first"
        self._measurement.run()
        partials, sketches = self._measurement.sums(self.state.device)
        if sketches is not None and self._backend != "torch":
            sketches = sketches.float()
        ops.module(self._backend).yellowfin_tune(
            self.options,
            partials,
            sketches,
            self._here(grad_scale),
            self._here(found_inf),
            self.state,
            self._settings.rows,
            self.coefficients,
            self._scratch,
        )

    def _here(self, scalar: Tensor | None) -> Tensor | None:
        return None if scalar is None else scalar.to(self.state.device)

    def coefficients_on(self, device: torch.device) -> Tensor:
        """The coefficients of this step on a device."""
        return self.coefficients.to(device)

    def saved(self) -> Tensor:
        """A state to be saved, with what the last update gauged.

        With sharded parameters the shards' sums are added up: all their processes have to ask.
        """
        state = self.state.detach().clone()
        if self.options.gauges and self._measurement is not None:
            for name, gauge in zip(GAUGES, self._measurement.gauged(state.device)):
                state[STATE_FIELDS.index(f"unread_{name}")] += gauge
        return state

    def load(self, state: Tensor) -> None:
        """Takes a state saved before; its layout must have been checked."""
        self.state = state.detach().to(self.state.device, torch.float64, copy=True)
        self._measurement = None  # what the last update gauged belongs to the state before

    def lrs(self) -> list[float]:
        """The step size of the last step in each group; on CUDA this waits for the device."""
        name = "velocity_gain" if self.options.polyak else "param_gain"
        return (0.0 - self.coefficients[:, YELLOWFIN.fields.index(name)]).tolist()

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and pickles keep what was learnt; the tables' buffers are made again
        return _restore, (self.options, self.saved())

    def values(self) -> dict[str, float]:
        """STATE_FIELDS by name; on CUDA this waits for the device."""
        return dict(zip(STATE_FIELDS, self.state[: len(STATE_FIELDS)].tolist()))


def _restore(options: TunerOptions, state: Tensor) -> YellowFinTuner:
    tuner = YellowFinTuner(options)
    tuner.state = state
    return tuner
