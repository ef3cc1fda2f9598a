"""The tables of a run: built once, shown on a terminal or written as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from bench.result import COPY, Result
from bench.targets import Verdict

try:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
except ModuleNotFoundError:  # a bare GPU machine: plain text will do
    Console = None  # type: ignore[assignment, misc]


BUSY_SPREAD = 0.2
LEGEND = (
    "B/param: bytes a step must move, counted; GB/s: those over the time; allocations: of a step. "
    "[moved]: gradients at new addresses in each step, as after zero_grad(). "
    "spread: distance of the quartiles / median. of copy: speed on the counted bytes / the copy's. "
    "x AdamW: time / fused AdamW's, in the same mode; like `of copy` a median over the rounds. "
    "More in bench/NOTES.md."
)


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, the first column left-aligned and the others right-aligned.

    Notes are lines below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table in GitHub's notation, under its title."""
        alignment = [":--", *["--:"] * (len(self.header) - 1)]
        lines = (" | ".join(cells) for cells in (self.header, alignment, *self.rows))
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"### {self.title}\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n" + notes

    def plain(self) -> str:
        """The table in columns padded with blanks."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = (
            "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
            for cells in (self.header, ["-" * width for width in widths], *self.rows)
        )
        return "\n".join([self.title, *lines, *self.notes, ""])


def show(table: Table) -> None:
    """Print a table: with rich on a terminal, else as plain text."""
    if Console is None or not sys.stdout.isatty():
        print(table.plain())
        return
    rich_table = RichTable(
        title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for number, name in enumerate(table.header):
        rich_table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
    for row in table.rows:
        rich_table.add_row(*row)
    console = Console()
    console.print(rich_table)
    for note in table.notes:
        console.print(note, style="dim", markup=False)
    console.print()


def race_table(result: Result, device: torch.device) -> Table:
    """Every contestant at one size."""
    on_cuda = device.type == "cuda"
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
        *(["launches"] if on_cuda else []),
    ]
    rows = [tuple(_race_row(result, key, on_cuda=on_cuda)) for key in result.samples if key != COPY]
    copy_speed = result.gigabytes_per_second(COPY)
    rounds = f"{result.rounds} rounds"
    if result.rounds < result.planned_rounds:
        rounds = f"{result.rounds} of {result.planned_rounds} rounds: time ran out"
    title = f"{result.size.description}, {result.dtype_name} (copy {rate(copy_speed)}, {rounds})"
    return Table(title, tuple(header), tuple(rows), tuple(_race_notes(result)))


def _race_notes(result: Result) -> Iterable[str]:
    yield LEGEND
    busy = [
        entry.label for key, entry in result.entries.items() if result.spread(key) > BUSY_SPREAD
    ]
    if busy:
        rows = "all rows" if len(busy) == len(result.entries) else ", ".join(busy)
        yield f"Spread above {BUSY_SPREAD:.0%}: {rows}. The machine was busy: repeat the run."
    slow = [
        f"{entry.label} {len(result.samples[key])}"
        for key, entry in result.entries.items()
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


def _race_row(result: Result, key: str, *, on_cuda: bool) -> Iterable[str]:
    entry, footprint = result.entries[key], result.footprints[key]
    reference = result.reference_for(key)
    yield entry.label
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
    if on_cuda:
        yield "-" if footprint.launches is None else str(footprint.launches)


def three_digits(number: float) -> str:
    """A number to three digits, all of those before the point."""
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:.0f}"


def rate(gigabytes_per_second: float) -> str:
    """A bandwidth with its unit."""
    return f"{three_digits(gigabytes_per_second)} GB/s"


def duration(seconds: float) -> str:
    """A time in the unit that suits it, to three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1.0:
            return f"{three_digits(seconds * scale)} {unit}"
    return f"{seconds * 1e9:.3g} ns"
