"""The YellowFin tuner: what it remembers, and one tuning step over the tables of a model."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yfkernels import ops
from yfkernels.distributed.sharding import ShardGroup
from yfkernels.ops.table import TensorTable
from yfkernels.ops.tuner import (
    COEFFICIENT_FIELDS,
    GROUP_FIELDS,
    STATE_FIELDS,
    STATE_FORMAT,
    SUMS,
    TILE,
    TunerOptions,
)


class Measurement:
    """Room for the sums over the tables of one device, a run of slots for each table.

    Args:
        tables: tables of one device and one shard group; at least one.
        options: which sums will be used.
    """

    def __init__(self, tables: Sequence[TensorTable], options: TunerOptions) -> None:
        self.device = tables[0].device
        self.shard = tables[0].shard
        self._nonzero = options.sparsity_debias
        slots = [table.num_slots for table in tables]
        self.partials = torch.zeros(sum(slots), len(SUMS), dtype=torch.float64, device=self.device)
        plain = all(table.backend == "torch" for table in tables)
        self.sketches: Tensor | None = None
        if options.sketch:
            self.sketches = torch.zeros(
                sum(slots),
                TILE,
                dtype=torch.float64 if plain else torch.float32,
                device=self.device,
            )
        sketches = [None] * len(slots) if self.sketches is None else self.sketches.split(slots)
        self._parts = list(zip(tables, self.partials.split(slots), sketches))

    def run(self) -> None:
        """Measures this step's gradients, a launch a table."""
        for table, partials, sketches in self._parts:
            ops.module(table.backend).yellowfin_measure(table, partials, sketches, self._nonzero)

    def fold(self) -> Tensor:
        """All sums of this device in one float64 vector: len(SUMS) sums, then the sketch."""
        parts = [self.partials.sum(0)]
        if self.sketches is not None:
            parts.append(self.sketches.sum(0, dtype=torch.float64))
        return torch.cat(parts)


class YellowFinTuner:
    """Keeps the tuner's state and turns measurements into coefficients for the apply pass.

    Args:
        options: YellowFin's global options.

    Attributes:
        state: float64 vector: STATE_FIELDS, the window and, with the sketch, its average.
        coefficients: float64 [groups, len(COEFFICIENT_FIELDS)], on the device of the state.
    """

    def __init__(self, options: TunerOptions) -> None:
        self.options = options
        self.state = torch.zeros(options.state_words, dtype=torch.float64)
        self.state[STATE_FIELDS.index("format")] = STATE_FORMAT
        self.state[STATE_FIELDS.index("beta_power")] = 1.0
        self._backend = "torch"
        self._measurements: list[Measurement] = []
        self._groups_written: list[list[float]] = []
        self.groups = torch.zeros(0, len(GROUP_FIELDS), dtype=torch.float64)
        self.coefficients = torch.zeros(0, len(COEFFICIENT_FIELDS), dtype=torch.float64)

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
        self.groups = torch.zeros(num_groups, len(GROUP_FIELDS), dtype=torch.float64, device=device)
        self._groups_written = []
        self.coefficients = torch.zeros(
            num_groups, len(COEFFICIENT_FIELDS), dtype=torch.float64, device=device
        )
        # the native kernel's: a sum for each bucket of the sketch, and a ticket
        self._scratch = torch.zeros(TILE + 1, dtype=torch.float64, device=device)
        places = dict.fromkeys((table.device, table.shard) for table in tables)
        self._measurements = [
            Measurement([t for t in tables if (t.device, t.shard) == place], self.options)
            for place in places
        ]
        self._shards = list(shards)

    def set_groups(self, values: list[list[float]], device_lrs: dict[int, Tensor]) -> None:
        """Takes the user's settings; costs nothing unless they changed.

        Args:
            values: GROUP_FIELDS for each group.
            device_lrs: by group, step size multipliers that live on a device and must be read
                there: they are copied in every step, over the number in `values`.
        """
        if values != self._groups_written:
            self._write_groups(values)
        for group, lr in device_lrs.items():
            self.groups[group, 0].copy_(lr.reshape(()))

    def _write_groups(self, values: list[list[float]]) -> None:
        self._groups_written = values
        flat = [value for group in values for value in group]
        words = struct.unpack(f"{len(flat)}q", struct.pack(f"{len(flat)}d", *flat))
        ops.module(self._backend).write_words(self.groups.view(-1), list(words))

    def measure(self) -> None:
        """Measures this step's gradients on every device."""
        for measurement in self._measurements:
            measurement.run()

    def tune(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Turns the measurement into coefficients.

        Args:
            grad_scale: GradScaler's loss scale if the gradients still carry it.
            found_inf: GradScaler's verdict, non-zero to skip the step.
        """
        partials, sketches = self._sums()
        ops.module(self._backend).yellowfin_tune(
            self.options,
            partials,
            sketches,
            self._here(grad_scale),
            self._here(found_inf),
            self.state,
            self.groups,
            self.coefficients,
            self._scratch,
        )

    def _sums(self) -> tuple[Tensor, Tensor | None]:
        """The slots as the tuner takes them: as they are, or folded and gathered."""
        if len(self._measurements) == 1 and not self._shards:
            first = self._measurements[0]
            if first.device == self.state.device:
                return first.partials, first.sketches
        total = self._folded(None, self.state.device)
        for shard in self._shards:
            part = self._folded(shard, shard.device)
            shard.all_reduce(part)
            total += part.to(total.device)
        if not self.options.sketch:
            return total.unsqueeze(0), None
        partials, sketch = total.unsqueeze(0).split([len(SUMS), TILE], dim=1)
        dtype = torch.float64 if self._backend == "torch" else torch.float32
        return partials.contiguous(), sketch.to(dtype).contiguous()

    def _folded(self, shard: ShardGroup | None, device: torch.device) -> Tensor:
        """The sums of all tables split over `shard`, added up on `device`."""
        words = len(SUMS) + (TILE if self.options.sketch else 0)
        total = torch.zeros(words, dtype=torch.float64, device=device)
        for measurement in self._measurements:
            if measurement.shard == shard:
                total += measurement.fold().to(device)
        return total

    def _here(self, scalar: Tensor | None) -> Tensor | None:
        return None if scalar is None else scalar.to(self.state.device)

    def coefficients_on(self, device: torch.device) -> Tensor:
        """The coefficients of this step on a device."""
        return self.coefficients.to(device)

    def load(self, state: Tensor) -> None:
        """Takes a state saved before; its layout must have been checked."""
        self.state = state.detach().to(self.state.device, torch.float64, copy=True)

    def lrs(self) -> list[float]:
        """The step size of the last step in each group; on CUDA this waits for the device."""
        name = "velocity_gain" if self.options.polyak else "param_gain"
        return (0.0 - self.coefficients[:, COEFFICIENT_FIELDS.index(name)]).tolist()

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and pickles keep what was learnt; the tables' buffers are made again
        return _restore, (self.options, self.state)

    def values(self) -> dict[str, float]:
        """STATE_FIELDS by name; on CUDA this waits for the device."""
        return dict(zip(STATE_FIELDS, self.state[: len(STATE_FIELDS)].tolist()))


def _restore(options: TunerOptions, state: Tensor) -> YellowFinTuner:
    tuner = YellowFinTuner(options)
    tuner.state = state
    return tuner
