"""What is run next, and that a run which was killed goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_tasks
from made_up import fill, result
from typer.testing import CliRunner

from bench.convergence.campaign import Campaign
from bench.convergence.cell import TUNING_SEEDS, Cell
from bench.convergence.cli import app
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.outside import register
from bench.convergence.result import TrainingResult
from bench.convergence.store import Store

ROOT = Path(__file__).parents[3]
MODULE = str(tiny_tasks.__file__)
SEEDS = (0, 1, 2, 3, 4)


def with_best(**best: float) -> TrainingResult:
    """Makes results whose loss is low where the options are those."""

    def make(cell: Cell) -> TrainingResult:
        near = sum(cell.options.get(name, best[name]) == best[name] for name in best)
        return result(cell.key, 0.5**near)

    return make


@pytest.mark.usefixtures("tiny")
class TestPlan:
    def test_default_settings_are_measured_at_once(self, tmp_path: Path) -> None:
        asked = fill(Store(tmp_path), Campaign({"tiny": ""}, ["adamw"], SEEDS), with_best(lr=1.0))
        assert [cell.key.seed for cell in asked] == list(SEEDS)

    def test_the_grid_comes_first_on_seeds_of_its_own(self, tmp_path: Path) -> None:
        campaign, store = Campaign({"tiny": ""}, ["adamw-tuned"], SEEDS), Store(tmp_path)
        asked = fill(store, campaign, with_best(lr=3e-3))
        assert {cell.key.seed for cell in asked[:14]} == set(TUNING_SEEDS)
        assert [cell.options["lr"] for cell in asked[14:]] == [3e-3] * len(SEEDS)
        assert not campaign.phase("tiny", "adamw-tuned", store).is_at_edge

    def test_an_option_is_tuned_at_the_best_of_the_one_before(self, tmp_path: Path) -> None:
        campaign, store = Campaign({"tiny": ""}, ["adamw-beta1"], SEEDS), Store(tmp_path)
        asked = fill(store, campaign, with_best(lr=1e-2, beta1=0.5))
        assert campaign.phase("tiny", "adamw-beta1", store).options == {"lr": 1e-2, "beta1": 0.5}
        assert len(asked) == 14 + 4 + len(SEEDS)  # beta1 = 0.9 was there from the first grid

    def test_the_edge_of_a_grid_is_told(self, tmp_path: Path) -> None:
        campaign, store = Campaign({"tiny": ""}, ["sgd-tuned"], SEEDS), Store(tmp_path)
        fill(store, campaign, with_best(lr=1.0))
        assert campaign.phase("tiny", "sgd-tuned", store).is_at_edge

    def test_contestants_share_trainings(self, tmp_path: Path) -> None:
        campaign = Campaign({"tiny": ""}, ["adamw", "adamw-tuned"], SEEDS)
        asked = fill(Store(tmp_path), campaign, with_best(lr=1e-3))
        assert len(asked) == 14 + len(SEEDS)  # tuned is the default here

    def test_other_data_is_trained_anew(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        fill(store, Campaign({"tiny": "text 1"}, ["adamw"], SEEDS), with_best(lr=1.0))
        assert len(list(Campaign({"tiny": "text 2"}, ["adamw"], SEEDS).missing(store))) == len(
            SEEDS
        )


class TestRegister:
    def test_a_digest_of_the_text_is_the_setting(self, tmp_path: Path) -> None:
        settings = []
        for lr in (1, 2):
            path = tmp_path / f"prototype{lr}.py"
            path.write_text(
                "import torch\n"
                f"CONTESTANTS = {{'p{lr}': lambda m: torch.optim.SGD(m.parameters(), lr={lr})}}\n",
                encoding="utf-8",
            )
            register(str(path))
            settings.append(CONTESTANTS[f"p{lr}"].recipe.setting)
        assert settings[0] != settings[1]

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [("", "no dictionary CONTESTANTS"), ("CONTESTANTS = {'adamw': None}", "exist")],
    )
    def test_what_cannot_be_registered(self, tmp_path: Path, text: str, complaint: str) -> None:
        path = tmp_path / "prototype.py"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=complaint):
            register(str(path))

    @pytest.mark.parametrize("source", ["no_such_module", "no/such/file.py"])
    def test_what_is_not_there(self, source: str) -> None:
        with pytest.raises(ValueError, match=source):
            register(source)


def arguments(out: Path, *more: str) -> list[str]:
    return ["run", "--tasks", "tiny", "--module", MODULE, "--out", str(out), *more]


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    """Killed in the middle of a training: those before it stay as they are."""
    path = tmp_path / "tiny.jsonl"
    command = [sys.executable, "-m", "bench.convergence"]
    seeds = ("--contestants", "slow", "--seeds", "0,1,2,3,4,5")
    with subprocess.Popen([*command, *arguments(tmp_path, *seeds)], cwd=ROOT) as process:
        until = time.monotonic() + 120.0
        while not path.exists() or not path.read_bytes().endswith(b"\n"):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    left = path.read_bytes()
    stored = len(Store(tmp_path))
    assert 1 <= stored < 6

    done = CliRunner().invoke(app, arguments(tmp_path, *seeds))
    assert done.exit_code == 0, done.output
    assert f"{6 - stored} trainings added, nothing is left." in done.output
    assert path.read_bytes().startswith(left[: left.rfind(b"\n") + 1])
    assert sorted(one.key.seed for one in Store(tmp_path)) == [0, 1, 2, 3, 4, 5]


def test_no_time_no_trainings(tmp_path: Path) -> None:
    options = ("--contestants", "adamw", "--minutes", "0", "--seeds", "0,1")
    done = CliRunner().invoke(app, arguments(tmp_path, *options))
    assert "0 trainings added, at least 2 are left." in done.output


def test_a_failure_is_told_and_the_others_run(tmp_path: Path) -> None:
    prototype = tmp_path / "failing.py"
    prototype.write_text(
        "import torch\n"
        "class Failing(torch.optim.SGD):\n"
        "    def step(self): raise RuntimeError('not today')\n"
        "CONTESTANTS = {'failing': lambda model: Failing(model.parameters())}\n",
        encoding="utf-8",
    )
    options = ("--module", str(prototype), "--contestants", "failing,sgd", "--seeds", "0")
    done = CliRunner().invoke(app, arguments(tmp_path / "out", *options))
    assert done.exit_code == 1
    assert "not today" in done.output
    assert [one.key.optimizer for one in Store(tmp_path / "out")] == ["sgd"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--contestants", "adamwx"), "adamwx"),
        (("--seeds", "one"), "one"),
        (("--seeds", "1001"), "1001"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: tuple[str, ...], complaint: str) -> None:
    done = CliRunner().invoke(app, arguments(tmp_path, *options))
    assert done.exit_code == 2
    assert complaint in done.output


def test_forget(tmp_path: Path) -> None:
    runner = CliRunner()
    runner.invoke(app, arguments(tmp_path, "--contestants", "sgd,adamw", "--seeds", "0"))
    where = ("--tasks", "tiny", "--out", str(tmp_path))
    done = runner.invoke(app, ["forget", "--contestants", "sgd", *where])
    assert "1 trainings dropped" in done.output
    assert [one.key.optimizer for one in Store(tmp_path)] == ["adamw"]
