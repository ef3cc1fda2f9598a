"""The table of the ladder and its numbers as CSV."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.common.results import write_csv, write_text
from bench.common.tables import Table
from bench.convergence.ladder.outcome import NEAR, Curve, Outcome, Side
from bench.convergence.ladder.picture import draw

HEADER = (
    "rung", "seeds",
    "best x", "its loss", "x1 loses %",
    "averaged: best x", "its loss", "x1 loses %",
    "AdamW's best lr", "its loss", "averaged: lr", "its loss",
    f"x1 within {NEAR:g}%",
)  # fmt: skip
NOTES = (
    "Test loss after the last step, nats a character, medians of the seeds. x: the multiplier of "
    "YellowFin's step size; x1 is its default. Loses: against the best multiplier. Averaged: with "
    "the average of the weights that was kept beside the same trainings. A star marks a best value "
    "at the edge of its grid.",
)


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row a rung."""
    rows = tuple(tuple(_row(outcome)) for outcome in outcomes)
    return Table("Scaling ladder", HEADER, rows, (*NOTES, *_counts(outcomes)))


def write(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Writes ``ladder.md``, ``ladder.csv`` and ``ladder.png``; none if there is no outcome.

    Args:
        outcomes: the rungs.
        folder: gets the files.
    """
    if not outcomes:
        return []
    page, numbers, picture = (folder / f"ladder.{end}" for end in ("md", "csv", "png"))
    texts = ", ".join(dict.fromkeys(outcome.data for outcome in outcomes))
    shown = "![test loss by multiplier and by learning rate](ladder.png)\n\nGaps: diverged."
    write_text(page, f"{table(outcomes).markdown()}\nText: {texts}.\n\n{shown}\n")
    write_csv(numbers, _COLUMNS, _csv_rows(outcomes))
    draw(outcomes).savefig(picture)
    return [page, numbers, picture]


def _row(outcome: Outcome) -> Iterator[str]:
    yield outcome.rung.name.removeprefix("ladder-")
    yield str(len(outcome.seeds))
    sides = (outcome.raw, outcome.averaged)
    for side in sides:
        yield from _best(side.yellowfin if side else None)
        yield "-" if side is None else f"{side.lost:.2f}"
    for side in sides:
        yield from _best(side.adamw if side else None)
    yield ", ".join(_near(side) for side in sides)


def _best(curve: Curve | None) -> Iterator[str]:
    if curve is None or math.isinf(curve.lowest):
        yield from ("-", "-")
        return
    yield f"{curve.best:g}" + " *" * curve.is_at_edge
    yield f"{curve.lowest:.4g}"


def _near(side: Side | None) -> str:
    if side is None:
        return "-"
    return "yes" if side.is_near else "no"


def _counts(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """On how many rungs the default is near the best, and where the best is."""
    for words, sides in (
        ("As trained", [outcome.raw for outcome in outcomes]),
        ("Averaged", [outcome.averaged for outcome in outcomes if outcome.averaged]),
    ):
        if sides:
            near = sum(side.is_near for side in sides)
            best = sorted(Counter(side.yellowfin.best for side in sides).items())
            places = ", ".join(f"x{value:g} on {count}" for value, count in best)
            yield f"{words}: x1 within {NEAR:g}% on {near} of {len(sides)} rungs; best: {places}."


_COLUMNS = (
    "rung", "model", "batch_size", "steps", "seeds", "weights", "optimizer", "value", "test_loss",
    "lost_percent",
)  # fmt: skip


def _csv_rows(outcomes: Sequence[Outcome]) -> Iterator[Sequence[object]]:
    for outcome in outcomes:
        rung = outcome.rung
        of_rung = (rung.name, rung.model, rung.batch_size, rung.steps, len(outcome.seeds))
        for weights, side in (("raw", outcome.raw), ("averaged", outcome.averaged)):
            if side is None:
                continue
            for optimizer, curve in (("yellowfin", side.yellowfin), ("adamw", side.adamw)):
                if curve is None:
                    continue
                for value, loss in curve.losses.items():
                    numbers = (f"{value:g}", f"{loss:.4g}", f"{curve.lost(value):.3g}")
                    yield (*of_rung, weights, optimizer, *numbers)
