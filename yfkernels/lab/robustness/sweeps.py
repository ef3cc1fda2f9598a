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
TUNING_SEEDS = (1000, 1001, 1002)  # apart from those that are measured
FINALISTS = 5  # settings of a grid, the best at the first of these seeds, that see the others

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
        return [geometric_mean(same) for same in self.outcomes]

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
        grid: what became of every setting at the first tuning seed; empty if nothing is tuned.
        tuned: of the finalists the best, by the geometric mean of the losses at all these seeds.
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
        first, *_ = TUNING_SEEDS
        grid = {setting: outcome(setting, first) for setting in contestant.grid}
        finalists = sorted(grid, key=lambda setting: grid[setting].loss)[:FINALISTS]
        scores = {
            setting: geometric_mean([outcome(setting, seed) for seed in TUNING_SEEDS])
            for setting in finalists
        }
        tuned = min(scores, key=lambda setting: scores[setting])
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


def geometric_mean(outcomes: Sequence[Outcome]) -> float:
    """Of the losses; those above the initial loss count as that."""
    logs = [math.log(capped(one.loss, one.initial_loss)) for one in outcomes]
    return math.exp(sum(logs) / len(logs))


def trials_of(optimizer: str) -> int:
    """How many trainings tune it; a single setting needs none."""
    size = len(CONTESTANTS[optimizer].grid)
    return size + FINALISTS * (len(TUNING_SEEDS) - 1) if size > 1 else 0


def trainings_of(optimizer: str, seeds: int) -> int:
    """How many there are at most."""
    curves = 2 if optimizer == "sgd" else 1
    return trials_of(optimizer) + curves * len(FACTORS) * seeds
