"""The rungs are what their names say; the report finds the best multiplier and what x1 loses."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from made_up import result
from typer.testing import CliRunner

from bench.convergence.campaign import Campaign
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.ladder import CONTESTANTS as LADDER
from bench.convergence.ladder import MULTIPLIERS, RATES, TASKS, cli
from bench.convergence.ladder.outcome import Outcome, outcomes
from bench.convergence.ladder.rungs import MODELS, RUNGS, Rung
from bench.convergence.outside import register
from bench.convergence.store import Store
from yfkernels.lab.workloads.training import train

SMALL = [name for name, model in MODELS.items() if model.millions < 0.3]
RUNG = RUNGS[0]


@pytest.fixture
def ladder(registries: None) -> None:
    """Adds its contestants and its tasks."""
    register("bench.convergence.ladder")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_size_of_its_name(name: str) -> None:
    task = MODELS[name].build()
    with torch.device("meta"):
        model = task.build_model()
    count = sum(weight.numel() for weight in model.parameters())
    assert count == pytest.approx(1e6 * MODELS[name].millions, rel=0.1)
    assert name.endswith(f"-{MODELS[name].millions:g}M")


def test_every_model_at_every_batch_and_length_and_the_cheapest_first() -> None:
    assert len({rung.name for rung in RUNGS}) == len(RUNGS) == len(MODELS) * 3 * 2
    assert list(TASKS) == [rung.name for rung in RUNGS]
    assert [rung.seconds for rung in RUNGS] == sorted(rung.seconds for rung in RUNGS)
    for rung in RUNGS:
        assert rung.name == f"ladder-{rung.model}-b{rung.batch_size}-{rung.steps}"
        assert TASKS[rung.name].steps == rung.steps
        assert TASKS[rung.name].build().batch_size == rung.batch_size


@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize("model", SMALL)
def test_a_small_rung_is_trained_by_everyone(name: str, model: str) -> None:
    task = MODELS[model].build().with_batch_size(2)
    net = task.model(0)
    optimizer = LADDER[name](net)
    assert optimizer.param_groups[0]["lr"] == {**MULTIPLIERS, **RATES}[name]
    losses = [record.loss for record in train(task, net, optimizer, steps=2, seed=0)]
    assert all(map(math.isfinite, losses))


@pytest.mark.usefixtures("ladder")
def test_whole_rungs_come_before_the_next() -> None:
    names = [rung.name for rung in RUNGS]
    campaign = Campaign(dict.fromkeys(names, "text"), list(LADDER), [0])
    cells = list(campaign.missing(Store(Path("nowhere"))))
    assert len(cells) == len(RUNGS) * len(LADDER)
    assert {cell.key.task for cell in islice(cells, len(LADDER))} == {names[0]}


# Of seed 1; seed 0 has half a thousandth less and seed 2 half a thousandth more.
RAW = {"yellowfin-x0.5": 2.0, "yellowfin-x1": 2.1, "adamw-0.003": 2.05}
AVERAGED = {"yellowfin-x2": 1.8, "yellowfin-x1": 1.81, "adamw-0.01": 1.79}


def stored(
    folder: Path,
    names: list[str],
    rung: Rung = RUNG,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str = "text",
    averaged: bool = True,
    loss_of: Callable[[str], float] = lambda name: RAW.get(name, 2.5),
) -> Store:
    store = Store(folder)
    campaign = Campaign({rung.name: data}, names, seeds)
    for cell in campaign.missing(store):
        noise = 0.0005 * (cell.key.seed - 1)
        averages = {
            "average_train_loss": 1.0,
            "average_test_loss": AVERAGED.get(cell.contestant, 1.9) + noise,
            "average_test_accuracy": 0.5,
        }
        loss = loss_of(cell.contestant) + noise
        store.add(result(cell.key, test_loss=loss, **(averages if averaged else {})))
    return store


def only(store: Store) -> Outcome:
    (outcome,) = outcomes(store)
    return outcome


@pytest.mark.usefixtures("ladder")
class TestOutcome:
    def test_the_best_and_what_the_default_loses(self, tmp_path: Path) -> None:
        found = only(stored(tmp_path, list(LADDER)))
        assert found.rung == RUNG
        assert found.seeds == [0, 1, 2]
        assert found.raw.yellowfin.best == 0.5
        assert found.raw.yellowfin.lowest == 2.0
        assert found.raw.lost == pytest.approx(5.0)
        assert not found.raw.is_near
        assert not found.raw.yellowfin.is_at_edge
        assert found.raw.adamw is not None
        assert (found.raw.adamw.best, found.raw.adamw.lowest) == (3e-3, 2.05)

    def test_the_same_with_the_average(self, tmp_path: Path) -> None:
        averaged = only(stored(tmp_path, list(LADDER))).averaged
        assert averaged is not None
        assert averaged.yellowfin.best == 2.0
        assert averaged.lost == pytest.approx(100 / 180)
        assert averaged.is_near
        assert averaged.adamw is not None
        assert averaged.adamw.best == 0.01
        assert averaged.adamw.is_at_edge

    def test_no_average_was_kept(self, tmp_path: Path) -> None:
        found = only(stored(tmp_path, list(LADDER), averaged=False))
        assert found.averaged is None
        assert found.raw.yellowfin.best == 0.5

    def test_all_multipliers_and_a_common_seed_are_needed(self, tmp_path: Path) -> None:
        store = stored(tmp_path, [*MULTIPLIERS][1:])
        assert not list(outcomes(store))
        stored(tmp_path, [*MULTIPLIERS][:1], seeds=(7,))
        assert not list(outcomes(Store(tmp_path)))
        stored(tmp_path, [*MULTIPLIERS][:1], seeds=(1, 2))
        found = only(Store(tmp_path))
        assert found.seeds == [1, 2]
        assert found.raw.adamw is None

    def test_other_texts_settings_and_tasks_are_not_mixed_in(self, tmp_path: Path) -> None:
        stored(tmp_path, list(LADDER), data="another", seeds=(0,), loss_of=lambda name: 0.1)
        store = stored(tmp_path, list(LADDER))
        stale = CONTESTANTS["yellowfin-x4"]
        key = next(one.key for one in store if one.key.optimizer == stale.optimizer)
        parts = {**vars(key), "data": "text", "setting": "source of old"}
        store.add(result(type(key)(**parts), test_loss=0.1))
        found = only(store)
        assert found.data == "text"
        assert found.raw.yellowfin.lowest == 2.0

    def test_what_diverged_is_not_the_best(self, tmp_path: Path) -> None:
        found = only(
            stored(tmp_path, [*MULTIPLIERS], loss_of=lambda n: math.inf if "x4" in n else 2.0)
        )
        assert found.raw.yellowfin.best == 0.25
        assert found.raw.lost == 0.0


class TestCommand:
    @pytest.mark.usefixtures("ladder")
    def test_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli, "register", lambda source: None)  # it is
        stored(tmp_path, list(LADDER))
        stored(tmp_path, list(LADDER), rung=RUNGS[-1], seeds=(0,), loss_of=lambda name: math.inf)
        done = CliRunner().invoke(cli.app, ["report", "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert "x1 within 1% on 0 of 2 rungs" in done.output
        page = (tmp_path / "ladder.md").read_text()
        row = next(line for line in page.splitlines() if RUNG.name.partition("-")[2] in line)
        assert "| 3 | 0.5 | 2 | 5.00 |" in row
        assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
        with (tmp_path / "ladder.csv").open() as file:
            rows = list(csv.DictReader(file))
        by_line = {tuple(row.values())[:8]: row for row in rows}
        sizes = f"{RUNG.model} {RUNG.batch_size} {RUNG.steps}".split()
        default = by_line[(RUNG.name, *sizes, "3", "raw", "yellowfin", "1")]
        assert (default["test_loss"], default["lost_percent"]) == ("2.1", "5")

    def test_nothing_yet(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli.app, ["report", "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert "No rung" in done.output
        assert not list(tmp_path.iterdir())

    def test_run_takes_the_ladder_alone(self, tmp_path: Path) -> None:
        arguments = ["run", "--rungs", RUNG.name, "--minutes", "0", "--out", str(tmp_path)]
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 0, done.output
        assert f"0 trainings added, at least {len(LADDER)} are left." in done.output
