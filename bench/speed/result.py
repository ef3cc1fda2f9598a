"""What one race yields: the samples, and the medians and paired ratios taken from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median, quantiles

import torch

from bench.speed.clocks import Sample
from bench.speed.contestant import DTYPES, RaceContestant
from bench.speed.contestants import CONTESTANTS
from bench.speed.footprint import Footprint
from bench.speed.sizes import Size

COPY = "copy"
REFERENCE = "adamw-fused"


@dataclass(frozen=True)
class Entrant:
    """A contestant in one mode.

    `eager` is the plain one; `moved` is eager with all gradients at other addresses in each step,
    `capturable` is eager with that flag, `graph` replays a CUDA graph.
    """

    contestant: RaceContestant
    mode: str

    @property
    def key(self) -> str:
        """Name in the results; the mode is left out where it is the plain one."""
        return self.contestant.name + ("" if self.mode == "eager" else f"@{self.mode}")

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.contestant.label + ("" if self.mode == "eager" else f" [{self.mode}]")

    @property
    def capturable(self) -> bool:
        """Whether the optimizer is built with `capturable=True`."""
        return self.mode in ("capturable", "graph") and self.contestant.has_capturable

    @property
    def possible(self) -> bool:
        """Whether this optimizer has the mode at all."""
        return {
            "eager": True,
            "moved": self.contestant.ours,
            "capturable": self.contestant.has_capturable,
            "graph": self.contestant.graphable,
        }[self.mode]


@dataclass
class RaceResult:
    """Everything measured at one size with parameters of one dtype.

    Attributes:
        samples: one a round, from the first round on; of slow contestants fewer than of others.
        left_out: contestants that did not take part, and why.
        failed: those that raised an exception, and its words.
        beside: samples of the copy, taken in turns with an entrant's own, where contestants were
            measured one after the other; empty where all shared their rounds.
        planned_rounds: rounds there should have been; time may have run out before.
    """

    size: Size
    copy_bytes: int
    dtype: torch.dtype = torch.float32
    entrants: dict[str, Entrant] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    footprints: dict[str, Footprint] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    beside: dict[str, list[Sample]] = field(default_factory=dict)
    planned_rounds: int = 0

    @property
    def name(self) -> str:
        """Name in the results; the dtype is left out where it is fp32."""
        return self.size.name + ("" if self.dtype == torch.float32 else f" {self.dtype_name}")

    @property
    def dtype_name(self) -> str:
        """Name of the dtype on the command line."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def rounds(self) -> int:
        """Rounds that were run."""
        if self.beside:
            return max(map(len, self.beside.values()))
        return len(self.samples[COPY])

    def seconds(self, key: str) -> float:
        """Median time of a step."""
        return median(sample.seconds for sample in self.samples[key])

    def host_seconds(self, key: str) -> float:
        """Median time until the call returned."""
        return median(sample.host for sample in self.samples[key])

    def quartiles(self, key: str) -> tuple[float, float]:
        """Lower and upper quartile of the time of a step."""
        low, _, high = quantiles([sample.seconds for sample in self.samples[key]], n=4)
        return low, high

    def spread(self, key: str) -> float:
        """Distance of the quartiles over the median."""
        low, high = self.quartiles(key)
        return (high - low) / self.seconds(key)

    def ratio(self, key: str, reference: str) -> float:
        """Median of time(key) / time(reference) in the same round, over those both were in.

        Of entrants that were not measured together each is held against the copy beside it.
        """
        if self.beside:
            return self._over_copy(key) / self._over_copy(reference)
        return _paired(self.samples[key], self.samples[reference])

    def _over_copy(self, key: str) -> float:
        return 1.0 if key == COPY else _paired(self.samples[key], self.beside[key])

    def bytes_per_step(self, key: str) -> int:
        """Counted traffic: bytes per parameter times parameters."""
        if key == COPY:
            return self.copy_bytes
        return self.bytes_per_param(key) * self.size.numel

    def bytes_per_param(self, key: str) -> int:
        """Counted traffic of an entrant."""
        return self.entrants[key].contestant.bytes_per_param(self.dtype)

    def gigabytes_per_second(self, key: str) -> float:
        """Counted traffic over the median time."""
        return self.bytes_per_step(key) / self.seconds(key) / 1e9

    def copy_fraction(self, key: str) -> float:
        """Speed on the counted bytes relative to the copy of the same round."""
        return self.bytes_per_step(key) / self.copy_bytes / self.ratio(key, COPY)

    def speed_ratio(self, key: str, reference: str) -> float:
        """GB/s relative to the GB/s of another entrant in the same round."""
        traffic = self.bytes_per_step(key) / self.bytes_per_step(reference)
        return traffic / self.ratio(key, reference)

    def reference_for(self, key: str) -> str | None:
        """Fused AdamW in the same mode, or else its plain form, if it took part."""
        same_mode = Entrant(CONTESTANTS[REFERENCE], self.entrants[key].mode).key
        return next((name for name in (same_mode, REFERENCE) if name in self.samples), None)


def _paired(ours: list[Sample], theirs: list[Sample]) -> float:
    pairs = zip(ours, theirs, strict=False)
    return median(one.seconds / other.seconds for one, other in pairs)
