"""What is trained for a contestant, and what is made of it, with losses that are known."""

from __future__ import annotations

import math
from collections import Counter

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from torch import nn
from valley import BEST, INITIAL, Valley, swept

from yfkernels.lab.robustness.contestants import ADAM_LRS, CONTESTANTS, MOMENTA, Setting
from yfkernels.lab.robustness.sweeps import (
    FACTORS,
    TUNING_SEEDS,
    sweep,
    trainings_of,
    trials_of,
    wrong_lrs,
    wrong_momenta,
)
from yfkernels.lab.robustness.trainings import Job, Outcome


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_it_is_tuned_on_a_seed_of_its_own(optimizer: str) -> None:
    found, run = swept(optimizer)
    assert found.tuned == BEST
    assert len(found.grid) == 40
    by_seed = Counter(job.seed for job in run.jobs)
    assert [by_seed[seed] for seed in TUNING_SEEDS] == [45, 5, 5]  # finalists ask once more
    wrong = (len(FACTORS) + 7) if optimizer == "sgd" else len(FACTORS)  # 7: mu = 1 - 0.1 f >= 0
    assert {seed: by_seed[seed] for seed in range(3)} == dict.fromkeys(range(3), wrong)
    assert len(set(run.jobs)) <= trainings_of(optimizer, 3)
    assert trials_of(optimizer) == len({job for job in run.jobs if job.seed >= 1000}) == 50
    assert {(job.workload, job.steps, job.optimizer) for job in run.jobs} == {
        ("quadratic", 7, optimizer)
    }
    assert found.losses == pytest.approx([1.0, 1.1, 1.2])


def test_a_setting_that_was_lucky_once_is_not_chosen() -> None:
    """It is the best of the grid at the first seed, and poor at the others."""
    run = Valley()
    lucky = Setting(0.1, 0.9)

    def by_luck(job: Job) -> Outcome:
        found = run(job)
        is_lucky = (job.lr, job.momentum) == lucky and job.seed == TUNING_SEEDS[0]
        return Outcome(INITIAL, 0.9) if is_lucky else found

    found = sweep(by_luck, "quadratic", 7, "sgd", seeds=1)
    assert min(found.grid, key=lambda setting: found.grid[setting].loss) == lucky
    assert found.tuned == BEST


def test_yellowfin_is_not_tuned() -> None:
    found, run = swept("yellowfin")
    assert (found.grid, found.tuned, found.by_momentum) == ({}, Setting(1.0), None)
    assert len(run.jobs) == trainings_of("yellowfin", 3) == 3 * len(FACTORS)
    assert trials_of("yellowfin") == 0
    assert {job.momentum for job in run.jobs} == {None}


def test_curves_and_basins() -> None:
    """The loss is good up to 100^0.1 times the best: 0.2 decades on either side."""
    found, _ = swept("sgd")
    curve = found.by_lr
    assert curve.factors == FACTORS
    assert curve.at_seed(0)[4] == pytest.approx(1.0)
    assert curve.at_seed(0)[0] == curve.at_seed(0)[-1] == INITIAL  # diverged
    assert curve.mean[4] == pytest.approx((1.0 * 1.1 * 1.2) ** (1 / 3))
    widths = [one.decades for one in curve.basins([curve.level_at(0), curve.level_at(1), 10.0])]
    assert widths[:2] == pytest.approx([0.4, 0.4 - 0.2 * math.log10(1.1)], abs=2e-3)
    assert widths[2] == pytest.approx(2.0 * (1.0 - math.log10(1.2)), abs=2e-3)
    assert found.by_momentum is not None
    assert found.by_momentum.factors == tuple(factor for factor in FACTORS if factor <= 10.0)
    assert found.by_momentum.basins([found.by_momentum.level_at(0)])[0].decades == pytest.approx(
        0.4, abs=2e-3
    )


def test_wrong_settings() -> None:
    lrs = wrong_lrs(Setting(0.3162, 0.9))
    assert lrs[1.0] == Setting(0.3162, 0.9)
    assert (lrs[0.01].lr, lrs[100.0].lr, lrs[10.0].lr) == (0.003162, 31.62, 3.162)
    for momentum in MOMENTA:
        assert momentum is not None
        wrong = wrong_momenta(Setting(0.1, momentum))
        assert wrong[1.0].momentum == momentum
        for factor, setting in wrong.items():
            assert setting.momentum is not None
            assert 0.0 <= setting.momentum < 1.0
            assert 1.0 - setting.momentum == pytest.approx(factor * (1.0 - momentum), rel=1e-3)
        left_out = set(FACTORS) - set(wrong)
        assert all(factor * (1.0 - momentum) > 1.0 for factor in left_out)


def test_grids_are_of_one_size() -> None:
    sizes = {name: len(one.grid) for name, one in CONTESTANTS.items()}
    assert sizes == {"sgd": 40, "adam": 40, "adamw": 40, "yellowfin": 1}


def test_edges_of_a_grid() -> None:
    adam, yellowfin = CONTESTANTS["adam"], CONTESTANTS["yellowfin"]
    assert adam.is_at_edge(Setting(ADAM_LRS[0], 0.9))
    assert adam.is_at_edge(Setting(ADAM_LRS[-1], 0.9))
    assert adam.is_at_edge(Setting(ADAM_LRS[3], MOMENTA[-1]))
    assert not adam.is_at_edge(Setting(ADAM_LRS[3], MOMENTA[0]))  # there is none below
    assert not yellowfin.is_at_edge(Setting(1.0))


@pytest.mark.parametrize(
    ("name", "setting", "wanted"),
    [
        ("sgd", Setting(0.1, 0.9), {"lr": 0.1, "momentum": 0.9, "weight_decay": 0}),
        ("adam", Setting(0.1, 0.0), {"lr": 0.1, "betas": (0.0, 0.999), "weight_decay": 0}),
        ("adamw", Setting(0.1, 0.5), {"lr": 0.1, "betas": (0.5, 0.999), "weight_decay": 0.01}),
        ("yellowfin", Setting(0.5), {"lr": 0.5}),
    ],
)
def test_what_is_built(name: str, setting: Setting, wanted: dict[str, object]) -> None:
    optimizer = CONTESTANTS[name].build(nn.Linear(2, 2), setting)
    (group,) = optimizer.param_groups
    assert type(optimizer).__name__ == CONTESTANTS[name].label
    assert {option: group[option] for option in wanted} == wanted
