"""The tables of a run: contestants at one size, targets, the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from bench.common.tables import Table, duration, rate, three_digits
from bench.speed.result import COPY, RaceResult
from bench.speed.targets import Verdict

BUSY_SPREAD = 0.2
LEGEND = (
    "B/param: bytes a step must move, counted; GB/s: those over the time; allocations: of a step. "
    "[moved]: gradients at new addresses in each step, as after zero_grad(). "
    "spread: distance of the quartiles / median. of copy: speed on the counted bytes / the copy's. "
    "x AdamW: time / fused AdamW's, in the same mode; like `of copy` a median over the rounds. "
    "More in bench/NOTES.md."
)


def race_table(result: RaceResult, device: torch.device) -> Table:
    """Every contestant at one size."""
    on_cuda = device.type == "cuda"
    is_counted = any(footprint.launches for footprint in result.footprints.values())
    header = [
        "",
        "B/param",
        "device time" if on_cuda else "time",
        "spread",
        *(["host time"] if on_cuda else []),
        "GB/s",
        "of copy",
        "x AdamW",
        "state B/param",
        "allocations",
        *(["launches"] if is_counted else []),
    ]
    rows = [
        tuple(_race_row(result, key, on_cuda=on_cuda, is_counted=is_counted))
        for key in result.samples
        if key != COPY
    ]
    copy_speed = result.gigabytes_per_second(COPY)
    rounds = f"{result.rounds} rounds"
    if result.rounds < result.planned_rounds:
        rounds = f"{result.rounds} of {result.planned_rounds} rounds: time ran out"
    title = f"{result.size.description}, {result.dtype_name} (copy {rate(copy_speed)}, {rounds})"
    return Table(title, tuple(header), tuple(rows), tuple(_race_notes(result)))


def _race_notes(result: RaceResult) -> Iterable[str]:
    yield LEGEND
    busy = [
        entrant.label
        for key, entrant in result.entrants.items()
        if result.spread(key) > BUSY_SPREAD
    ]
    if busy:
        rows = "all rows" if len(busy) == len(result.entrants) else ", ".join(busy)
        yield f"Spread above {BUSY_SPREAD:.0%}: {rows}. The machine was busy: repeat the run."
    slow = [
        f"{entrant.label} {len(result.samples[key])}"
        for key, entrant in result.entrants.items()
        if len(result.samples[key]) < result.rounds
    ]
    if slow:
        yield f"Slow, and in the first rounds only: {', '.join(slow)}."
    if result.beside:
        yield "Too large for all at once: one after the other, each in turns with the copy."
    if result.failed:
        words = "; ".join(f"{name}: {error}" for name, error in result.failed.items())
        yield f"Failed: {words}."
    if result.left_out:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in result.left_out.items())
        yield f"Left out: {reasons}."


def target_table(verdicts: Sequence[Verdict]) -> Table:
    """Promised and measured."""
    rows = tuple(
        (
            verdict.target.claim,
            verdict.target.size,
            f"{verdict.target.relation} {verdict.target.bound:g}",
            "-" if verdict.measured is None else three_digits(verdict.measured),
            verdict.outcome,
        )
        for verdict in verdicts
    )
    return Table("Targets", ("", "size", "target", "measured", "outcome"), rows)


def environment_table(facts: Mapping[str, object]) -> Table:
    """The machine and the versions."""
    rows = tuple((name, str(value)) for name, value in facts.items())
    return Table("Environment", ("", "value"), rows)


def _race_row(result: RaceResult, key: str, *, on_cuda: bool, is_counted: bool) -> Iterable[str]:
    entrant, footprint = result.entrants[key], result.footprints[key]
    reference = result.reference_for(key)
    yield entrant.label
    yield str(result.bytes_per_param(key))
    yield duration(result.seconds(key))
    yield f"{result.spread(key):.0%}"
    if on_cuda:
        yield duration(result.host_seconds(key))
    yield three_digits(result.gigabytes_per_second(key))
    yield f"{result.copy_fraction(key):.0%}"
    yield "-" if reference is None else f"{result.ratio(key, reference):.3f}"
    yield f"{footprint.state_bytes / result.size.numel:.3g}"
    yield str(footprint.allocations)
    if is_counted:
        yield "-" if footprint.launches is None else str(footprint.launches)
