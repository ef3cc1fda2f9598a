"""A contestant on a workload: tuned on its grid, then trained with settings that are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from yfkernels.lab.robustness.basins import Basin, basin, capped, level
from yfkernels.lab.robustness.contestants import (
    CONTESTANTS,
    Setting,
    half_decades,
    momentum_below_one,
    rounded,
)
from yfkernels.lab.robustness.trainings import Job, Outcome

FACTORS = half_decades(-4, 4)  # 1/100 to 100
TUNING_SEED = 1000  # apart from those that are measured

Run = Callable[[Job], Outcome]


@dataclass(frozen=True)
class Curve:
    """Losses over the factors by which a setting is wrong, at a few seeds.

    Attributes:
        factors: increasing.
        outcomes: by factor and by seed.
    """

    factors: tuple[float, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]

    def at_seed(self, place: int) -> list[float]:
        """The losses of one seed; those above the initial loss count as that."""
        return [capped(each[place].loss, each[place].initial_loss) for each in self.outcomes]

    @property
    def mean(self) -> list[float]:
        """The geometric means over the seeds."""
        seeds = [self.at_seed(place) for place in range(len(self.outcomes[0]))]
        return [math.exp(sum(map(math.log, same)) / len(same)) for same in zip(*seeds)]

    def level_at(self, place: int) -> float:
        """The loss up to which a training of one seed is good, by this curve's own best."""
        return level(min(self.at_seed(place)), self.outcomes[0][place].initial_loss)

    def basins(self, levels: Sequence[float]) -> list[Basin]:
        """The basin of each seed, given the level of each."""
        return [basin(self.factors, self.at_seed(at), good) for at, good in enumerate(levels)]


@dataclass(frozen=True)
class Sweep:
    """What was measured of a contestant on a workload.

    Attributes:
        workload, optimizer: names.
        grid: what became of every setting that was tried; empty where nothing is tuned.
        tuned: the best of them, by the loss at the tuning seed.
        by_lr: with lr wrong by a factor.
        by_momentum: with 1 - momentum wrong by one; None without a momentum to set.
    """

    workload: str
    optimizer: str
    grid: dict[Setting, Outcome]
    tuned: Setting
    by_lr: Curve
    by_momentum: Curve | None

    @property
    def losses(self) -> list[float]:
        """The final losses as tuned, one a seed."""
        return [outcome.loss for outcome in self.by_lr.outcomes[self.by_lr.factors.index(1.0)]]


def sweep(run: Run, workload: str, steps: int, optimizer: str, *, seeds: int) -> Sweep:
    """Tunes, and trains with wrong settings.

    Args:
        run: trains.
        workload, optimizer: names.
        steps: length of a training.
        seeds: trainings at each wrong setting.
    """
    contestant = CONTESTANTS[optimizer]

    def outcome(setting: Setting, seed: int) -> Outcome:
        return run(Job(workload, steps, optimizer, *setting, seed))

    def curve(settings: dict[float, Setting]) -> Curve:
        outcomes = [tuple(outcome(one, seed) for seed in range(seeds)) for one in settings.values()]
        return Curve(tuple(settings), tuple(outcomes))

    grid: dict[Setting, Outcome] = {}
    tuned, *others = contestant.grid
    if others:
        grid = {setting: outcome(setting, TUNING_SEED) for setting in contestant.grid}
        tuned = min(grid, key=lambda setting: grid[setting].loss)
    by_lr = curve(wrong_lrs(tuned))
    by_momentum = curve(wrong_momenta(tuned)) if optimizer == "sgd" else None
    return Sweep(workload, optimizer, grid, tuned, by_lr, by_momentum)


def wrong_lrs(tuned: Setting) -> dict[float, Setting]:
    """By factor."""
    return {factor: tuned._replace(lr=rounded(factor * tuned.lr)) for factor in FACTORS}


def wrong_momenta(tuned: Setting) -> dict[float, Setting]:
    """By the factor of 1 - momentum; torch takes no momentum below 0."""
    assert tuned.momentum is not None
    gaps = {factor: rounded(factor * (1.0 - tuned.momentum)) for factor in FACTORS}
    return {
        factor: tuned._replace(momentum=momentum_below_one(gap))
        for factor, gap in gaps.items()
        if gap <= 1.0
    }


def trainings_of(optimizer: str, seeds: int) -> int:
    """How many there are at most."""
    tuning = len(CONTESTANTS[optimizer].grid) if len(CONTESTANTS[optimizer].grid) > 1 else 0
    curves = 2 if optimizer == "sgd" else 1
    return tuning + curves * len(FACTORS) * seeds
