"""The files and tables of `yfkernels compare` and `yfkernels large-batch`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("rich")

from matplotlib.image import imread

from yfkernels.lab.compare import run_comparison, run_large_batch
from yfkernels.lab.plots import plot_batch_sizes
from yfkernels.lab.recipes import read_recipe
from yfkernels.lab.workloads.digits import digits_mlp
from yfkernels.lab.workloads.training import train


@pytest.fixture(autouse=True)
def wide_output(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """And torch's threads put back after the test."""
    monkeypatch.setenv("COLUMNS", "120")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compare(folder: Path, *texts: str, steps: int = 4, seeds: Any = (0,)) -> list[dict[str, str]]:
    run_comparison(
        digits_mlp(),
        [read_recipe(text) for text in texts],
        steps=steps,
        seeds=seeds,
        threads=1,
        folder=folder,
        name="name",
    )
    return rows(folder / "name.csv")


def large_batch(folder: Path, *texts: str, seeds: Any = (0, 1)) -> list[dict[str, str]]:
    run_large_batch(
        digits_mlp(),
        [read_recipe(text) for text in texts],
        batch_sizes=[256, 512],
        epochs=1,
        seeds=seeds,
        threads=1,
        folder=folder,
    )
    return rows(folder / "large-batch.csv")


def test_numbers_are_those_of_the_training(tmp_path: Path) -> None:
    """The file holds every step of every seed, and the loop is the shared one."""
    written = compare(tmp_path, "sgd:lr=0.3", "adamw", seeds=(2, 3))
    assert [(row["optimizer"], row["seed"], row["step"]) for row in written] == [
        (name, seed, str(step))
        for name in ("SGD", "AdamW")
        for seed in "23"
        for step in range(1, 5)
    ]
    task = digits_mlp()
    torch.set_num_threads(1)
    model = task.model(seed=3)
    optimizer = read_recipe("sgd:lr=0.3").build(model)
    expected = [record.loss for record in train(task, model, optimizer, steps=4, seed=3)]
    of_seed = [row for row in written if (row["optimizer"], row["seed"]) == ("SGD", "3")]
    assert [float(row["loss"]) for row in of_seed] == expected
    assert float(of_seed[-1]["test_accuracy"]) == task.evaluate(model).accuracy
    assert {row["setting"] for row in of_seed} == {"lr 0.3, momentum 0.9"}


def test_lr_is_written_as_set_or_as_tuned(tmp_path: Path) -> None:
    written = compare(tmp_path, "yellowfin", "sgd", "adamw", "lamb", steps=3)
    rates: dict[str, list[str]] = {}
    for row in written:
        rates.setdefault(row["optimizer"], []).append(row["lr"])
    assert rates["SGD"] == ["0.1"] * 3
    assert len(set(rates["YellowFin"])) == 3
    assert rates["AdamW"] == ["0.001"] * 3
    assert rates["LAMB"] == ["0.01"] * 3
    assert {row["momentum"] for row in written if row["optimizer"] == "SGD"} == {"0.9"}
    assert {row["momentum"] for row in written if row["optimizer"] == "AdamW"} == {""}


def test_accuracy_is_measured_now_and_then(tmp_path: Path) -> None:
    written = compare(tmp_path, "sgd", steps=50)
    measured = [int(row["step"]) for row in written if row["test_accuracy"]]
    assert measured == list(range(2, 51, 2))


def test_table_shows_mean_and_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = compare(tmp_path, "sgd", "lamb:preset=nvlamb", steps=60, seeds=(0, 1, 2))
    printed = " ".join(capsys.readouterr().out.split())
    last = [
        float(r["test_accuracy"]) for r in written if (r["optimizer"], r["step"]) == ("SGD", "60")
    ]
    assert f"{sum(last) / 3:.1%} ({min(last):.1%}–{max(last):.1%})" in printed
    assert "preset nvlamb" in printed
    assert "seeds 0 to 2, 1 CPU thread," in printed
    assert imread(tmp_path / "name.png").shape[1] >= 1200


def test_a_diverged_training_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = compare(tmp_path, "sgd:lr=1e30", steps=4)
    assert written[-1]["loss"] == "nan"
    assert "not reached" in capsys.readouterr().out


def test_large_batch_writes_every_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = large_batch(tmp_path, "lamb", "sgd:lr=0.05")
    assert [(r["optimizer"], r["batch_size"], r["seed"], r["steps"]) for r in written] == [
        (name, size, seed, steps)
        for name in ("LAMB", "SGD")
        for size, steps in (("256", "6"), ("512", "3"))
        for seed in "01"
    ]
    growth = {
        name: float(rate["lr"]) / float(first["lr"])
        for name, first, rate in (("LAMB", written[0], written[2]), ("SGD", written[4], written[6]))
    }
    assert growth == pytest.approx({"LAMB": 2.0**0.5, "SGD": 2.0})
    # tuned by doubling and halving from the setting given, which the file tells
    ratio = float(written[4]["lr"]) / 0.05
    assert ratio in {2.0**k for k in range(-12, 13)}
    assert written[4]["setting"] == f"lr {float(written[4]['lr'])}, momentum 0.9"

    printed = capsys.readouterr().out
    assert "1 epoch at every batch size, seeds 0 to 1" in " ".join(printed.split())
    assert imread(tmp_path / "large-batch.png").shape[1] >= 1200


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the next figure over batch sizes is drawn from."""
    received: dict[str, Any] = {}

    def draw(lines: Any, **texts: str) -> Any:
        received.update(texts, lines=lines)
        return plot_batch_sizes(lines, **texts)

    monkeypatch.setattr("yfkernels.lab.compare.batch_sizes.plot_batch_sizes", draw)
    return received


def test_variants_of_one_optimizer_stay_apart(
    tmp_path: Path, drawn: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["sgd:lr=0.1", "sgd:lr=0.2", "sgd:lr=0.1,nesterov=True"]
    written = large_batch(tmp_path, *texts, seeds=(0,))
    rates = [f"{float(written[row]['lr']):.3g}" for row in (0, 2, 4)]
    assert list(drawn["lines"]) == [
        f"SGD (lr {rates[0]} from 0.1, growing as batch)",
        f"SGD (lr {rates[1]} from 0.2, growing as batch)",
        f"SGD (lr {rates[2]} from 0.1, growing as batch, nesterov True)",
    ]
    assert "tuned at batch 256, the search starting from the one given, else" in drawn["note"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "lr 0.2, momentum 0.9" in printed
    assert "nesterov True" in printed
    assert "SGD (lr 0.2, momentum 0.9)" in printed  # the progress


def test_defaults_are_named_by_lr_and_rule(tmp_path: Path, drawn: dict[str, Any]) -> None:
    written = large_batch(tmp_path, "lamb", seeds=(0,))
    assert list(drawn["lines"]) == [f"LAMB (lr {float(written[0]['lr']):.3g}, growing as √batch)"]
    assert "tuned at batch 256, else by rule; 1 epoch " in drawn["note"]


@pytest.mark.parametrize(("steps", "window"), [(1, "1 step."), (4, "4 steps."), (40, "25 steps.")])
def test_progress_and_table_show_one_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, window: str
) -> None:
    written = compare(tmp_path, "sgd", steps=steps)
    printed = " ".join(capsys.readouterr().out.split())
    losses = [float(row["loss"]) for row in written][-25:]
    mean = f"{sum(losses) / len(losses):.2g}"
    assert f"loss {mean}, test accuracy" in printed
    assert f" {mean} " in printed.partition("Optimizer")[2]
    assert f"Losses: mean of the last {window}" in printed


@pytest.mark.parametrize("run", [compare, large_batch])
def test_threads_are_given_back(tmp_path: Path, run: Any) -> None:
    torch.set_num_threads(3)
    run(tmp_path, "sgd", seeds=(0,))
    assert torch.get_num_threads() == 3
