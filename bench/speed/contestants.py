"""Who takes part in a race: every optimizer in the registry, and its rivals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from bench.speed.contestant import Build, Make, RaceContestant, Steppable
from bench.speed.rivals.rows import RIVALS
from yfkernels.lab.registry import VARIANTS, Registration, Variant


def _maker(row: Registration, variant: Variant) -> Make:
    optimizer: Any = row.optimizer

    def make(params: list[Tensor], build: Build) -> Steppable:
        made: Steppable = optimizer(
            params, **variant.options, backend=build.backend, capturable=build.capturable
        )
        return made

    return make


def _ours() -> Iterator[RaceContestant]:
    for row, variant in VARIANTS:
        if variant.bytes_fp32 is not None:
            yield RaceContestant(
                row.key_of(variant),
                row.label_of(variant),
                ours=True,
                bytes_fp32=variant.bytes_fp32,
                make=_maker(row, variant),
                bytes_bf16=variant.bytes_bf16,
                has_capturable=True,
                essential=True,
            )


CONTESTANTS = {contestant.name: contestant for contestant in (*_ours(), *RIVALS)}


def default_contestants(device_type: str, size_name: str) -> tuple[str, ...]:
    """Who takes part where nobody is named.

    Those of other packages are there to be beaten on a GPU; on a CPU, where most of them take many
    times as long, they join where a target compares them.
    """
    return tuple(
        name
        for name, contestant in CONTESTANTS.items()
        if device_type == "cuda" or contestant.package is None or size_name in contestant.cpu_sizes
    )
