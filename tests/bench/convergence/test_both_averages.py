"""The same trainings with an average of their weights: measured, stored, tuned, held to targets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up import fill, result
from tiny_tasks import STEPS
from torch import Tensor, nn

from bench.convergence import cell as training
from bench.convergence import report, targets
from bench.convergence.campaign import Campaign
from bench.convergence.cell import TUNING_SEEDS, Cell
from bench.convergence.contestants import CONTESTANTS, DEFAULT_RIVALS, beside
from bench.convergence.result import Key, TrainingResult
from bench.convergence.store import Store
from bench.convergence.summary import summarize
from bench.convergence.targets import Assessment
from bench.convergence.tasks import TASKS
from yfkernels.lab.recipes import Recipe

pytestmark = pytest.mark.usefixtures("tiny")
KEY = Key("tiny", STEPS, "", "adamw", "lr 0.001, beta1 0.9", 0)
SEEDS = (0, 1, 2, 3, 4)
OURS = "yellowfin-compact+average"


def run(contestant: str, seed: int = 0) -> TrainingResult:
    campaign = Campaign({"tiny": ""}, [contestant], [seed])
    return training.run(campaign.cell("tiny", contestant, {}, seed))


class TestMeasured:
    @pytest.mark.parametrize("contestant", ["adamw", "yellowfin-compact", "muon", "soap"])
    def test_as_by_hand_in_double_precision(
        self, contestant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Power 8, every 8th step, all steps before the 8th: from the weights after each step."""
        if (why := CONTESTANTS[contestant].why_absent) is not None:
            pytest.skip(why)
        models: list[nn.Module] = []
        average: list[Tensor] = []
        row, spec = CONTESTANTS[contestant], TASKS["tiny"]
        task = spec.build()

        def build(model: nn.Module) -> torch.optim.Optimizer:
            models.append(model)
            return row.recipe.build(model)

        def watched(*args: object, **options: object) -> Iterator[object]:
            for record in train(*args, **options):  # type: ignore[arg-type]
                t = record.step
                weights = [param.detach().double() for param in models[0].parameters()]
                if t == 1:
                    average[:] = weights
                elif t <= 8 or t % 8 == 0:
                    c = min(1.0, 8 * 9 / (t + 8))
                    average[:] = [a + c * (x - a) for a, x in zip(average, weights)]
                yield record

        train = training.train
        monkeypatch.setattr(training, "train", watched)
        recipe = Recipe("watched", build)
        monkeypatch.setitem(CONTESTANTS, contestant, replace(row, recipe=recipe))
        measured = run(contestant)

        by_hand = task.model(0)
        with torch.no_grad():
            for param, mean in zip(by_hand.parameters(), average):
                param.copy_(mean)
            norm = by_hand[1]
            norm.momentum = None  # statistics of the whole epoch
            norm.reset_running_stats()
            by_hand.train()
            for _, (inputs, _) in zip(range(4), task.batches(0)):
                by_hand(inputs)
        training_set, test = task.evaluate_training(by_hand), task.evaluate(by_hand)
        assert measured.average_train_loss == pytest.approx(training_set.loss, rel=1e-5)
        assert measured.average_test_loss == pytest.approx(test.loss, rel=1e-5)
        assert measured.average_test_accuracy == test.accuracy
        assert measured.average_train_loss != pytest.approx(measured.train_loss, rel=1e-5)

    def test_it_leaves_the_training_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        beside_one = run("yellowfin-compact")
        monkeypatch.setattr(training, "is_schedule_free", lambda optimizer: True)
        monkeypatch.setattr(torch.optim.Optimizer, "train", lambda self: None, raising=False)
        monkeypatch.setattr(torch.optim.Optimizer, "eval", lambda self: None, raising=False)
        alone = run("yellowfin-compact")
        assert not alone.has_average
        assert alone.trace == beside_one.trace

    @pytest.mark.parametrize(
        "contestant",
        ["schedulefree-sgd", "schedulefree-adamw", "schedulefree-plus", "prodigy-plus"],
    )
    def test_schedule_free_takes_none_from_outside(self, contestant: str) -> None:
        if (why := CONTESTANTS[contestant].why_absent) is not None:
            pytest.skip(why)
        assert not run(contestant).has_average
        assert f"{contestant}+average" not in CONTESTANTS
        assert "average of its own" in (CONTESTANTS[contestant].with_average().why_absent or "")

    def test_a_training_that_broke_off_has_no_good_one(self) -> None:
        broken = run("reckless")
        assert math.isinf(broken.average_train_loss or 0.0)
        assert broken.average_test_accuracy == 0.0

    def test_tuning_measures_it(self) -> None:
        assert run("sgd", seed=TUNING_SEEDS[0]).has_average


class TestStored:
    def test_comes_back(self, tmp_path: Path) -> None:
        stored = result(KEY, 0.25, average=0.125)
        Store(tmp_path).add(stored)
        assert list(Store(tmp_path)) == [stored]

    def test_an_older_line_has_none_and_stays_as_it_is(self) -> None:
        line = result(KEY, 0.25).line()
        assert "average" not in json.loads(line)
        older = TrainingResult.parse(line)
        assert not older.has_average
        assert older.line() == line

    def test_infinite_is_not_unmeasured(self) -> None:
        again = TrainingResult.parse(result(KEY, 0.25, average=math.inf).line())
        assert again.average_train_loss == math.inf
        assert again.has_average

    def test_a_reading_ends_with_the_average(self) -> None:
        row = CONTESTANTS["adamw+average"]
        one = row.reading(result(KEY, 0.25, average=0.125))
        assert one is not None
        assert (one.final_loss, one.train_loss, one.test_loss) == (0.125, 0.125, 0.25)
        assert one.test_accuracy == 0.875
        assert row.reading(result(KEY, 0.25)) is None
        with pytest.raises(ValueError, match="no average"):
            result(KEY, 0.25).averaged()


class TestCampaign:
    def test_one_training_serves_both(self, tmp_path: Path) -> None:
        campaign = Campaign({"tiny": ""}, ["adamw", "adamw+average"], SEEDS)
        asked = fill(Store(tmp_path), campaign, lambda one: result(one.key, 0.1, average=0.1))
        assert len(asked) == len(SEEDS)

    def test_a_line_without_it_is_asked_for_again_and_replaced(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        fill(store, Campaign({"tiny": ""}, ["adamw"], SEEDS), lambda one: result(one.key, 0.1))
        assert not list(Campaign({"tiny": ""}, ["adamw"], SEEDS).missing(store))
        campaign = Campaign({"tiny": ""}, ["adamw", "adamw+average"], SEEDS)
        asked = fill(store, campaign, lambda one: result(one.key, 0.2, average=0.1))
        assert [one.contestant for one in asked] == ["adamw+average"] * len(SEEDS)
        store.tidy(["tiny"])
        again = list(Store(tmp_path))
        assert len(again) == len(SEEDS)
        assert all(one.has_average and one.final_loss == 0.2 for one in again)

    def test_tuned_for_the_average(self, tmp_path: Path) -> None:
        """The best rate is another one for the average of the weights."""

        def make(one: Cell) -> TrainingResult:
            lr = one.options["lr"]
            return result(
                one.key,
                0.1 + abs(math.log(lr / 1e-3)),
                average=0.1 + abs(math.log(lr / 1e-2)),
            )

        names = ["adamw-tuned", "adamw-tuned+average"]
        campaign, store = Campaign({"tiny": ""}, names, SEEDS), Store(tmp_path)
        asked = fill(store, campaign, make)
        assert campaign.phase("tiny", names[0], store).options == {"lr": 1e-3}
        assert campaign.phase("tiny", names[1], store).options == {"lr": 1e-2}
        assert len(asked) == 7 * len(TUNING_SEEDS) + 2 * len(SEEDS)

    def test_every_row_trained_at_a_constant_rate_has_its_average(self) -> None:
        for name in ("adamw", "adamw-tuned", "sgd-tuned", "prodigy", "muon", "ademamix", "soap"):
            assert beside(name, average=True) == f"{name}+average"
        for name, row in CONTESTANTS.items():
            assert not (row.ours and beside(name, average=True) == name) or row.average
        assert CONTESTANTS["slow+average"].ours  # of the module that the fixture registers
        assert beside("schedulefree-sgd", average=True) == "schedulefree-sgd"
        assert beside(OURS, average=False) == "yellowfin-compact"


def verdicts(store: Store, contestant: str) -> dict[str, Assessment]:
    summaries = summarize(store, ["tiny"], list(CONTESTANTS), SEEDS)
    return {verdict.target: verdict for verdict in targets.check(summaries, contestant)}


def stored(folder: Path, final: dict[str, float], average: dict[str, float]) -> Store:
    """Results of ours, AdamW's tuned and the rivals'; .1 where nothing is said."""

    def make(one: Cell) -> TrainingResult:
        name, noise = one.contestant.removesuffix("+average"), 1 + 0.01 * one.key.seed
        if one.key.seed in TUNING_SEEDS:
            noise = 1 + abs(math.log(one.options["lr"] / 1e-2))
        raw, mean = final.get(name, 0.1) * noise, average.get(name, 0.1) * noise
        return result(one.key, raw, average=None if "schedulefree" in name else mean)

    names = [*DEFAULT_RIVALS, "adamw-tuned", "yellowfin-compact"]
    both = dict.fromkeys(beside(name, average=one) for one in (False, True) for name in names)
    store = Store(folder)
    fill(store, Campaign({"tiny": ""}, list(both), SEEDS), make)
    return store


class TestTargets:
    TRAIN = "loss on the training set: no worse than the best rival's"

    def test_averages_are_held_against_averages(self, tmp_path: Path) -> None:
        """Ours is better than the others' last weights, and worse than an average of theirs."""
        store = stored(tmp_path, {"prodigy": 0.2}, {"yellowfin-compact": 0.05, "prodigy": 0.01})
        averaged = verdicts(store, OURS)[self.TRAIN]
        assert averaged.outcome == "missed"
        assert averaged.findings[0].rival == "prodigy+average"
        assert verdicts(store, "yellowfin-compact")[self.TRAIN].outcome == "held"

    def test_schedule_free_rivals_are_in_both(self, tmp_path: Path) -> None:
        store = stored(tmp_path, {"schedulefree-sgd": 0.01}, {})
        for name in (OURS, "yellowfin-compact"):
            finding = verdicts(store, name)[self.TRAIN].findings[0]
            assert (finding.rival, finding.holds) == ("schedulefree-sgd", False)

    def test_an_average_has_no_course(self, tmp_path: Path) -> None:
        words = " ".join(verdicts(stored(tmp_path, {}, {}), OURS))
        assert "on the training set" in words
        assert "running train loss" not in words
        assert "iterations" not in words
        assert "spike" not in words

    @pytest.mark.parametrize(("loss", "outcome"), [(0.1, "held"), (0.2, "missed")])
    def test_test_metric_beside_tuned_adamw(
        self, tmp_path: Path, loss: float, outcome: str
    ) -> None:
        store = stored(tmp_path, {}, {"yellowfin-compact": loss})
        (verdict,) = (one for words, one in verdicts(store, OURS).items() if "on its grid" in words)
        assert verdict.outcome == outcome
        assert verdict.findings[0].rival == "adamw-tuned+average"

    @pytest.mark.parametrize(
        ("final", "average", "outcomes"),
        [(0.1, 0.9, ("held", "held")), (0.1, 1.1, ("held", "missed"))],
    )
    def test_no_seed_ends_far_above_its_lowest(
        self, tmp_path: Path, final: float, average: float, outcomes: tuple[str, str]
    ) -> None:
        """An average's end is measured by the lowest running loss of the training."""
        name = "yellowfin-compact"
        store = stored(tmp_path, {name: final}, {name: average})
        words = "no seed ends above ten times its own lowest running loss"
        assert tuple(verdicts(store, one)[words].outcome for one in (name, OURS)) == outcomes

    def test_a_raw_end_far_above_its_lowest(self) -> None:
        assert targets.rise(result(KEY, 0.5, trace=(0.5, 0.1))) == 5.0
        assert targets.rise(result(KEY, math.inf, trace=(0.5,))) == math.inf
        assert targets.rise(result(KEY, 0.5, trace=())) == math.inf

    def test_a_newer_rival_counts_where_it_was_trained(self, tmp_path: Path) -> None:
        store = stored(tmp_path, {}, {})
        campaign = Campaign({"tiny": ""}, ["soap"], SEEDS)
        fill(store, campaign, lambda one: result(one.key, 0.01))
        finding = verdicts(store, "yellowfin-compact")[self.TRAIN].findings[0]
        assert finding.rival == "soap"


def test_a_report_of_both(tmp_path: Path) -> None:
    store = stored(tmp_path, {}, {"yellowfin-compact": 0.05})
    written = report.write(
        store, tmp_path, tasks=["tiny"], contestants=list(CONTESTANTS), seeds=SEEDS
    )
    assert all(path.stat().st_size for path in written)
    page = (tmp_path / "tables.md").read_text(encoding="utf-8")
    (row,) = (
        line for line in page.splitlines() if line.startswith("| YellowFin (default) + average | d")
    )
    cells = [one.strip() for one in row.strip("|").split("|")]
    assert cells[2] == "-"  # running loss
    assert cells[3].startswith("0.051")
    assert cells[5:] == ["-"] * (len(cells) - 5)
    assert "| YellowFin (default) | YellowFin (default) + average |" in page
    csv = (tmp_path / "measures.csv").read_text(encoding="utf-8")
    assert f"tiny,{OURS},defaults,train_loss,0.051" in csv
    assert f"tiny,{OURS},defaults,final_loss" not in csv
