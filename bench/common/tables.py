"""A table, built once and shown on a terminal or written as Markdown, and numbers in its cells."""

from __future__ import annotations

import sys
from dataclasses import dataclass

try:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
except ModuleNotFoundError:  # a bare GPU machine: plain text will do
    Console = None  # type: ignore[assignment, misc]


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
