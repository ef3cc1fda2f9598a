"""Tables, verdicts and pictures of made-up results."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from made_up import fill, result

from bench.convergence import report, targets
from bench.convergence.campaign import Campaign
from bench.convergence.cell import TUNING_SEEDS, Cell
from bench.convergence.contestants import CONTESTANTS, DEFAULT_RIVALS
from bench.convergence.measures import sampled_steps
from bench.convergence.result import TrainingResult
from bench.convergence.store import Store
from bench.convergence.summary import Summary, summarize
from bench.convergence.targets import Assessment, Finding

pytestmark = pytest.mark.usefixtures("tiny")
SEEDS = (0, 1, 2, 3, 4)
OURS = "yellowfin-robust"
BEST_TEST = "test metric: no worse than the best"
NAMES = (*DEFAULT_RIVALS, "adamw-tuned", OURS)


def stored(
    folder: Path,
    losses: Mapping[str, float],
    names: Sequence[str] = NAMES,
    seeds: Sequence[int] = SEEDS,
    data: str = "",
    **others: object,
) -> Store:
    """Results with these final losses (else .1) and 1% between the seeds; others are OURS'."""

    def make(cell: Cell) -> TrainingResult:
        loss = losses.get(cell.contestant, 0.1) * (1 + 0.01 * cell.key.seed)
        if cell.key.seed in TUNING_SEEDS:
            loss = abs(math.log(cell.options["lr"] / 1e-2))
        return result(cell.key, loss, **(others if cell.contestant == OURS else {}))

    store = Store(folder)
    fill(store, Campaign({"tiny": data}, names, seeds), make)
    return store


def summary_of(store: Store, seeds: Sequence[int] = SEEDS) -> Summary:
    (summary,) = summarize(store, ["tiny"], list(CONTESTANTS), seeds)
    return summary


def verdicts(store: Store, seeds: Sequence[int] = SEEDS) -> dict[str, Assessment]:
    summaries = summarize(store, ["tiny"], list(CONTESTANTS), seeds)
    return {verdict.target: verdict for verdict in targets.check(summaries, OURS)}


def verdict_on(store: Store, words: str, seeds: Sequence[int] = SEEDS) -> Assessment:
    (found,) = (one for target, one in verdicts(store, seeds).items() if words in target)
    return found


def test_only_the_complete_appear(tmp_path: Path) -> None:
    store = stored(tmp_path, {}, names=["adamw", "sgd"], seeds=[0, 1])
    fill(store, Campaign({"tiny": ""}, ["sgd"], [0, 1, 2]), lambda cell: result(cell.key))
    assert set(summary_of(store, [0, 1]).results) == {"adamw", "sgd"}
    assert set(summary_of(store, [0, 1, 2]).results) == {"sgd"}
    assert summarize(store, ["tiny"], list(CONTESTANTS), SEEDS) == []


def test_results_on_other_data_are_not_mixed_in(tmp_path: Path) -> None:
    store = stored(tmp_path, {}, names=["adamw"], data="text 1")
    fill(store, Campaign({"tiny": "text 2"}, NAMES, SEEDS), lambda cell: result(cell.key))
    assert summary_of(store).data == "text 2"
    rows = summary_of(store).results.values()
    assert {one.key.data for row in rows for one in row} == {"text 2"}


def test_spreads_are_medians_and_ranges(tmp_path: Path) -> None:
    spread = summary_of(stored(tmp_path, {OURS: 0.5})).spread(OURS, lambda one: one.final_loss)
    assert (spread.low, spread.median, spread.high) == pytest.approx((0.5, 0.51, 0.52))


def test_iterations_are_counted_to_the_lowest_loss_both_reach(tmp_path: Path) -> None:
    """The reference falls from 1 to .1 in 60 steps, ours to .55: the reference is there at 30."""
    ratio = summary_of(stored(tmp_path, {OURS: 0.55})).iteration_ratio(OURS)
    assert ratio is not None
    assert ratio.values[0] == 60 / 30


def test_levels_are_losses_of_the_reference(tmp_path: Path) -> None:
    summary = summary_of(stored(tmp_path, {}))
    trace = dict(zip(sampled_steps(60), summary.trace("adamw-tuned")))
    assert summary.levels["late"] == trace[30]
    assert summary.iterations("adamw-tuned", trace[30]).median == 30


def test_better_than_the_best_rival_holds(tmp_path: Path) -> None:
    verdict = verdict_on(stored(tmp_path, {OURS: 0.05}), "running train loss")
    assert verdict.outcome == "held"


def test_a_little_worse_than_the_best_is_seed_noise(tmp_path: Path) -> None:
    verdict = verdict_on(stored(tmp_path, {OURS: 0.1005}), "running train loss")
    assert verdict.findings[0].value > verdict.findings[0].bound
    assert verdict.outcome == "held"


def test_worse_in_every_seed_is_not(tmp_path: Path) -> None:
    store = stored(tmp_path, {OURS: 0.1, "prodigy": 0.05})
    for words in ("running train loss", "on the training set", BEST_TEST):
        verdict = verdict_on(store, words)
        assert verdict.outcome == "missed"
        assert verdict.findings[0].rival == "prodigy"
        assert verdict.findings[0].p < 0.05


def test_worse_than_every_seed_of_the_best_is_not_noise_whatever_the_test_says(
    tmp_path: Path,
) -> None:
    """One lucky seed of ours keeps p above .05; the median is still beyond the rival's range."""
    lucky = {0: 0.01, 1: 0.01}
    store = stored(tmp_path, {"prodigy": 0.05})
    for seed in SEEDS:
        key = summary_of(store).results[OURS][seed].key
        store.add(result(key, lucky.get(seed, 0.1)))
    verdict = verdict_on(store, "final running train loss")
    assert verdict.findings[0].p > 0.05
    assert verdict.outcome == "missed"


def test_one_bad_seed_of_the_best_is_no_excuse(tmp_path: Path) -> None:
    """Our median is within its range, but the test still finds us worse."""
    store = stored(tmp_path, {OURS: 0.1, "prodigy": 0.05})
    key = summary_of(store).results["prodigy"][4].key
    store.add(result(key, 0.1025))
    verdict = verdict_on(store, "final running train loss")
    assert verdict.findings[0].value < 0.1025
    assert verdict.outcome == "missed"


@pytest.mark.parametrize(("holding", "outcome"), [(2, "held"), (1, "missed")])
def test_two_thirds_of_the_tasks_are_enough(holding: int, outcome: str) -> None:
    findings = [Finding("", 1.0, 1.0, "", math.nan, number < holding) for number in range(3)]
    assert Assessment("", OURS, findings, needed=2).outcome == outcome


def test_three_seeds_cannot_tell(tmp_path: Path) -> None:
    store = stored(tmp_path, {OURS: 0.5}, seeds=SEEDS[:3])
    assert verdict_on(store, BEST_TEST, SEEDS[:3]).outcome == "not measured"


def test_no_verdict_without_all_rivals(tmp_path: Path) -> None:
    store = stored(tmp_path, {}, names=[*DEFAULT_RIVALS[1:], OURS])
    assert verdict_on(store, BEST_TEST).outcome == "not measured"
    assert verdict_on(store, "two thirds").outcome == "not measured"


@pytest.mark.parametrize(
    ("loss", "as_fast", "nearly"),
    [(0.1, "held", "held"), (0.3, "missed", "held"), (0.55, "missed", "missed")],
)
def test_iterations_against_the_reference(
    tmp_path: Path, loss: float, as_fast: str, nearly: str
) -> None:
    store = stored(tmp_path, {OURS: loss})
    assert verdict_on(store, "two thirds").outcome == as_fast
    assert verdict_on(store, "at most 1.5").outcome == nearly


@pytest.mark.parametrize(
    ("others", "words"), [({"long_spikes": 1}, "spike"), ({"diverged": True}, "divergence")]
)
def test_one_is_too_many(tmp_path: Path, others: Mapping[str, object], words: str) -> None:
    assert verdict_on(stored(tmp_path / "none", {}), words).outcome == "held"
    assert verdict_on(stored(tmp_path, {}, **others), words).outcome == "missed"


@pytest.mark.parametrize("trace", [(), (math.inf,)])
def test_a_training_that_diverged_at_once_is_drawn(
    tmp_path: Path, trace: tuple[float, ...]
) -> None:
    store = stored(tmp_path, {}, diverged=True, trace=trace)
    written = report.write(
        store, tmp_path, tasks=["tiny"], contestants=list(CONTESTANTS), seeds=SEEDS
    )
    assert all(path.stat().st_size for path in written)
    assert "curves-tiny.png" in {path.name for path in written}


def test_tables_and_pictures(tmp_path: Path) -> None:
    store = stored(tmp_path, {OURS: 0.2}, diverged=True, test_loss=math.inf)
    written = report.write(
        store, tmp_path, tasks=["tiny"], contestants=list(CONTESTANTS), seeds=SEEDS
    )
    names = {path.name for path in written}
    assert names == {
        *("tables.md", "measures.csv", "targets.csv", "profile.csv", "profile.png", "scores.png"),
        *("curves-tiny.png", "summary.png"),
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written if "png" in path.name)

    page = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "YellowFin (one step size)" in page
    assert "lr 0.01, beta1 0.9" in page
    assert "0.204" in page

    with (tmp_path / "measures.csv").open(encoding="utf-8") as file:
        rows = {(row["contestant"], row["measure"]): row for row in csv.DictReader(file)}
    assert rows[OURS, "final_loss"]["median"] == "0.204"
    assert rows[OURS, "test_loss"]["median"] == "inf"
    assert rows["adamw-tuned", "iterations / tuned AdamW's"]["median"] == "1"
    assert rows["adamw", "seconds"]["seeds"] == "5"


def test_nothing_stored_nothing_written(tmp_path: Path) -> None:
    assert not report.write(
        Store(tmp_path), tmp_path, tasks=["tiny"], contestants=["adamw"], seeds=SEEDS
    )
    assert not list(tmp_path.iterdir())
