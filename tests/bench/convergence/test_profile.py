"""Performance profiles on steps made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_up import fill, result

from bench.convergence.campaign import Campaign
from bench.convergence.cell import TUNING_SEEDS, Cell
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.measures import sampled_steps
from bench.convergence.profile import Profile, profile_of, rows
from bench.convergence.result import TrainingResult
from bench.convergence.store import Store
from bench.convergence.summary import summarize

PROFILE = Profile(
    {"a": 0.1, "b": 0.2},
    {
        "sgd": {"a": 100.0, "b": 400.0},
        "adamw": {"a": 250.0, "b": 200.0},
        "prodigy": {"a": 500.0, "b": math.inf},
    },
)


def test_ratios_are_over_the_fewest_of_anyone() -> None:
    assert PROFILE.ratios("sgd") == {"a": 1.0, "b": 2.0}
    assert PROFILE.ratios("adamw") == {"a": 2.5, "b": 1.0}
    assert PROFILE.ratios("prodigy") == {"a": 5.0, "b": math.inf}


@pytest.mark.parametrize(("tau", "share"), [(1.0, 0.5), (1.99, 0.5), (2.0, 1.0), (4.0, 1.0)])
def test_the_share_within_tau(tau: float, share: float) -> None:
    assert PROFILE.share("sgd", tau) == share


def test_the_score_is_the_area_up_to_four() -> None:
    """SGD has half of the tasks from 1 to 2 and both from 2 to 4: 2.5 of 3."""
    assert PROFILE.score("sgd") == pytest.approx(2.5 / 3)
    assert PROFILE.score("adamw") == pytest.approx((0.5 * 1.5 + 1.0 * 1.5) / 3)
    assert PROFILE.score("prodigy") == 0.0  # too late, and never
    assert PROFILE.ranking() == ["sgd", "adamw", "prodigy"]


def test_the_area_agrees_with_a_sum_of_thin_strips() -> None:
    count = 30_000
    strips = (PROFILE.share("adamw", 1.0 + 3.0 * (n + 0.5) / count) for n in range(count))
    assert PROFILE.score("adamw") == pytest.approx(sum(strips) / count, abs=1e-4)


def test_where_nobody_arrives() -> None:
    profile = Profile({"a": 0.1}, {"sgd": {"a": math.inf}, "adamw": {"a": math.inf}})
    assert profile.score("sgd") == 0.0


def test_rows_for_the_csv_file() -> None:
    assert next(rows(PROFILE)) == ("sgd", "a", "0.1", "100", "1")
    assert ("prodigy", "b", "0.2", "inf", "inf") in list(rows(PROFILE))


@pytest.mark.usefixtures("tiny")
class TestOfTrainings:
    """Losses fall from 1 in a straight line, tuned AdamW's to .1: at 45 of 60 steps to .325."""

    def stored(self, folder: Path, names: list[str], final: dict[str, float]) -> Store:
        def make(one: Cell) -> TrainingResult:
            loss = final.get(one.contestant, 0.1)
            if one.key.seed in TUNING_SEEDS:
                loss = 1.0 + abs(math.log(one.options["lr"] / 1e-2))
            return result(one.key, loss, average=loss)

        store = Store(folder)
        fill(store, Campaign({"tiny": ""}, names, (0, 1, 2)), make)
        return store

    def test_steps_to_what_tuned_adamw_has_after_three_quarters(self, tmp_path: Path) -> None:
        names = ["adamw-tuned", "sgd", "prodigy", "sgd+average"]
        store = self.stored(tmp_path, names, {"sgd": 0.01, "prodigy": 0.5})
        profile = profile_of(summarize(store, ["tiny"], list(CONTESTANTS), (0, 1, 2)))
        assert profile is not None
        assert profile.losses["tiny"] == pytest.approx(0.325)
        assert set(profile.steps) == {"adamw-tuned", "sgd", "prodigy"}  # no averages
        assert profile.steps["adamw-tuned"]["tiny"] == 45
        first = next(step for step in sampled_steps(60) if 1.0 - 0.99 * step / 60 <= 0.325)
        assert profile.steps["sgd"]["tiny"] == first
        assert profile.steps["prodigy"]["tiny"] == math.inf

    def test_none_without_tuned_adamw(self, tmp_path: Path) -> None:
        store = self.stored(tmp_path, ["sgd"], {})
        assert profile_of(summarize(store, ["tiny"], list(CONTESTANTS), (0, 1, 2))) is None
