"""What the stored trainings say of a rung: the best multiplier, and what the default loses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.convergence.cell import TUNING_SEEDS
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.ladder import MULTIPLIERS, RATES
from bench.convergence.ladder.rungs import RUNGS, Rung
from bench.convergence.result import TrainingResult
from bench.convergence.store import Store

DEFAULT = 1.0  # the multiplier of YellowFin's default
NEAR = 1.0  # percent that the default may lose

Losses = dict[float, float]  # by multiplier or learning rate


@dataclass(frozen=True)
class Curve:
    """Test losses over what was varied, medians of the seeds.

    Attributes:
        losses: by multiplier or learning rate, in their order; infinite where it diverged.
    """

    losses: Losses

    @property
    def best(self) -> float:
        """The value with the lowest loss."""
        return min(self.losses, key=lambda value: self.losses[value])

    @property
    def lowest(self) -> float:
        """Its loss."""
        return self.losses[self.best]

    @property
    def is_at_edge(self) -> bool:
        """Whether the best is the first or the last that was tried."""
        return self.best in (min(self.losses), max(self.losses))

    def lost(self, value: float) -> float:
        """What another value loses against the best, in percent."""
        return 100.0 * (self.losses[value] / self.lowest - 1.0)


@dataclass(frozen=True)
class Side:
    """The weights as trained, or their average.

    Attributes:
        yellowfin: over the multipliers.
        adamw: over the learning rates; None unless all are there.
    """

    yellowfin: Curve
    adamw: Curve | None

    @property
    def lost(self) -> float:
        """What the default loses against the best multiplier, in percent."""
        return self.yellowfin.lost(DEFAULT)

    @property
    def is_near(self) -> bool:
        """Whether that is within `NEAR`."""
        return self.lost <= NEAR


@dataclass(frozen=True)
class Outcome:
    """A rung whose multipliers are all trained.

    Attributes:
        rung: which.
        data: the text.
        seeds: that all multipliers have.
        raw: with the weights as trained.
        averaged: with their average; None where none was kept.
    """

    rung: Rung
    data: str
    seeds: Sequence[int]
    raw: Side
    averaged: Side | None


def outcomes(store: Store) -> Iterator[Outcome]:
    """The rungs whose multipliers have a seed in common, cheapest first.

    Their contestants have to be registered. Where there are results on several texts, those with
    the most trainings are taken.
    """
    for rung in RUNGS:
        found = [result for result in store if _belongs(result, rung)]
        if not found:
            continue
        data = Counter(result.key.data for result in found).most_common(1)[0][0]
        trained = {
            (result.key.optimizer, result.key.seed): result
            for result in found
            if result.key.data == data
        }
        seeds = _common_seeds(trained, MULTIPLIERS)
        if seeds:
            yield Outcome(rung, data, seeds, _side(trained, seeds), _averaged(trained, seeds))


def _belongs(result: TrainingResult, rung: Rung) -> bool:
    key = result.key
    return (
        (key.task, key.steps) == (rung.name, rung.steps)
        and key.seed not in TUNING_SEEDS
        and (key.optimizer in MULTIPLIERS or key.optimizer in RATES)
        and key.setting == CONTESTANTS[key.optimizer].recipe.setting
    )


Trained = Mapping[tuple[str, int], TrainingResult]  # by contestant and seed


def _common_seeds(trained: Trained, names: Mapping[str, float]) -> list[int]:
    seeds = {seed for _, seed in trained}
    return sorted(seed for seed in seeds if all((name, seed) in trained for name in names))


def _averaged(trained: Trained, seeds: Sequence[int]) -> Side | None:
    kept = {both: result.averaged() for both, result in trained.items() if result.has_average}
    if not all((name, seed) in kept for name in MULTIPLIERS for seed in seeds):
        return None
    return _side(kept, seeds)


def _side(trained: Trained, seeds: Sequence[int]) -> Side:
    """AdamW on those of the seeds that all its rates have."""

    def curve(names: Mapping[str, float], seeds: Sequence[int]) -> Curve:
        return Curve(
            {
                value: median(trained[name, seed].test_loss for seed in seeds)
                for name, value in names.items()
            }
        )

    shared = [seed for seed in _common_seeds(trained, RATES) if seed in seeds]
    return Side(curve(MULTIPLIERS, seeds), curve(RATES, shared) if shared else None)
