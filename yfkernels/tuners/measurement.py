"""Sums over the gradients of all tables, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yfkernels.ops.constants import SUMS, TILE
from yfkernels.ops.rules import Measure
from yfkernels.ops.table import TensorTable
from yfkernels.sharding.shards import ShardGroup, Sharding


class _Slots:
    """Room for the sums over the tables of one device and shard group, a run for each table."""

    def __init__(self, tables: Sequence[TensorTable], what: Measure) -> None:
        self.device = tables[0].device
        self.shard = tables[0].shard
        sizes = [table.num_slots for table in tables]
        self.partials = torch.zeros(sum(sizes), len(SUMS), dtype=torch.float64, device=self.device)
        self.sketches: Tensor | None = None
        if what == Measure.SKETCH:
            plain = not any(table.backend.fused for table in tables)
            dtype = torch.float64 if plain else torch.float32
            self.sketches = torch.zeros(sum(sizes), TILE, dtype=dtype, device=self.device)
        sketches = [None] * len(sizes) if self.sketches is None else self.sketches.split(sizes)
        self.parts = list(zip(tables, self.partials.split(sizes), sketches))

    def measure_start(self, views: Sequence[Tensor] | None) -> None:
        """‖p‖² of each table, into its first slot."""
        for table, partials, _ in self.parts:
            params = [row.param if views is None else views[row.index] for row in table.rows]
            squares = [table.backend.sum_of_squares(param) for param in params]
            partials[0, SUMS.index("start_sq")] = torch.stack(squares).sum()

    def fold(self) -> Tensor:
        """All sums in one float64 vector: len(SUMS) sums, then the sketch."""
        parts = [self.partials.sum(0)]
        if self.sketches is not None:
            parts.append(self.sketches.sum(0, dtype=torch.float64))
        return torch.cat(parts)


class Measurement:
    """One reading pass over the gradients of all tables.

    Args:
        tables: every table of the optimizer on this process.
        sharding: the processes that share the parameters.
        what: what to sum.
        nonzero: whether non-zero entries are to be counted.
        start: whether ‖p‖² is wanted, as it is now.
    """

    def __init__(
        self,
        tables: Sequence[TensorTable],
        sharding: Sharding,
        what: Measure,
        nonzero: bool = False,
        start: bool = False,
    ) -> None:
        self._what = what
        self._nonzero = nonzero
        self._sharding = sharding
        places = dict.fromkeys((table.device, table.shard) for table in tables)
        self._slots = [
            _Slots([t for t in tables if (t.device, t.shard) == place], what) for place in places
        ]
        if start:
            self.measure_start()

    def measure_start(self, views: Sequence[Tensor] | None = None) -> None:
        """Looks where the parameters are.

        Args:
            views: the tables' parameters by index, where the tables have let go of them.
        """
        for slots in self._slots:
            slots.measure_start(views)

    def buffers(self) -> list[Tensor]:
        """Room for the sums."""
        made = [(slots.partials, slots.sketches) for slots in self._slots]
        return [buffer for pair in made for buffer in pair if buffer is not None]

    def run(self, *, all_but_last: bool = False) -> None:
        """Measures this step's gradients, a launch a table."""
        parts = [part for slots in self._slots for part in slots.parts]
        for table, partials, sketches in parts[:-1] if all_but_last else parts:
            table.backend.measure(table, self._what, partials, sketches, self._nonzero)

    def whole(self, device: torch.device) -> tuple[Tensor, Tensor | None] | None:
        """All slots as they are, if they are on `device` and no other process has more."""
        if len(self._slots) == 1 and not self._sharding and self._slots[0].device == device:
            return self._slots[0].partials, self._slots[0].sketches
        return None

    @property
    def last(self) -> tuple[TensorTable, Tensor]:
        """The table measured last, and its slots."""
        table, partials, _ = self._slots[-1].parts[-1]
        return table, partials

    def sums(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """What was measured, gathered from devices and shards: slots and sketches on `device`."""
        found = self.whole(device)
        if found is not None:
            return found
        total = self._sharding.total(self._folded, device)
        if self._what != Measure.SKETCH:
            return total.unsqueeze(0), None
        partials, sketch = total.unsqueeze(0).split([len(SUMS), TILE], dim=1)
        return partials.contiguous(), sketch.contiguous()

    def _folded(self, shard: ShardGroup | None, device: torch.device) -> Tensor:
        """The sums of all tables split over `shard`, added up on `device`."""
        words = len(SUMS) + (TILE if self._what == Measure.SKETCH else 0)
        total = torch.zeros(words, dtype=torch.float64, device=device)
        for slots in self._slots:
            if slots.shard == shard:
                total += slots.fold().to(device)
        return total
