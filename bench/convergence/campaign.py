"""Which trainings are needed, and which of them are still to be run.

A tuned contestant asks for the trainings of its grid first. Once they are there, the best option
is known and it asks for those that are measured. So what comes next follows from what is stored,
and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.convergence.cell import TUNING_SEEDS, Cell
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.result import Key, TrainingResult
from bench.convergence.store import Store
from bench.convergence.tasks import TASKS


@dataclass(frozen=True)
class Phase:
    """How far a contestant is with a task.

    Attributes:
        cells: the trainings it asks for now, stored or not.
        options: what they found on the grid, once all of it is stored; the cells are then those
            that are measured.
        is_at_edge: whether the best of an option was the first or the last value.
    """

    cells: Sequence[Cell]
    options: Mapping[str, float] | None
    is_at_edge: bool = False


@dataclass(frozen=True)
class Campaign:
    """What to compare.

    Attributes:
        data: name of each task, and which data it has.
        contestants: names.
        seeds: that are measured.
    """

    data: Mapping[str, str]
    contestants: Sequence[str]
    seeds: Sequence[int]

    def missing(self, store: Store) -> Iterator[Cell]:
        """The trainings that can be run now and are not stored, each once."""
        seen: set[Key] = set()
        for task in self.data:
            for contestant in self.contestants:
                for cell in self.phase(task, contestant, store).cells:
                    if cell.key not in seen and self.found(cell, store) is None:
                        seen.add(cell.key)
                        yield cell

    def phase(self, task: str, contestant: str, store: Store) -> Phase:
        """What a contestant needs next on a task."""
        chosen: dict[str, float] = {}
        is_at_edge = False
        for axis in CONTESTANTS[contestant].search:
            candidates = [{**chosen, axis.option: value} for value in axis.values]
            grid = [
                [self.cell(task, contestant, options, seed) for seed in TUNING_SEEDS]
                for options in candidates
            ]
            found = [[self.found(cell, store) for cell in cells] for cells in grid]
            complete = [[one for one in results if one is not None] for results in found]
            if complete != found:
                return Phase([cell for cells in grid for cell in cells], None)
            scores = [_geometric_mean([one.final_loss for one in results]) for results in complete]
            best = scores.index(min(scores))
            is_at_edge |= best in (0, len(candidates) - 1)
            chosen = candidates[best]
        measured = [self.cell(task, contestant, chosen, seed) for seed in self.seeds]
        return Phase(measured, chosen, is_at_edge)

    def found(self, cell: Cell, store: Store) -> TrainingResult | None:
        """What the stored training says of the cell's contestant; None if it has to be trained."""
        if cell.key not in store:
            return None
        return CONTESTANTS[cell.contestant].reading(store[cell.key])

    def cell(self, task: str, contestant: str, options: Mapping[str, float], seed: int) -> Cell:
        """One training."""
        row = CONTESTANTS[contestant]
        key = Key(
            task=task,
            steps=TASKS[task].steps,
            data=self.data[task],
            optimizer=row.optimizer,
            setting=row.recipe.with_options(**options).setting,
            seed=seed,
        )
        return Cell(key, contestant, options)


def _geometric_mean(losses: Sequence[float]) -> float:
    """Infinite if one of them is."""
    if min(losses) <= 0.0:
        return 0.0 if math.isfinite(max(losses)) else math.inf
    return math.exp(sum(math.log(loss) for loss in losses) / len(losses))
